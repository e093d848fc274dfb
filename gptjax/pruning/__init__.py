"""Rounds of pruning: scores, ranking, rewinding, controls, reports."""
