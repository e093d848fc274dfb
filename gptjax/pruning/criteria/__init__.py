"""Criteria: one number a weight, and the lowest are pruned first. A file for each."""
