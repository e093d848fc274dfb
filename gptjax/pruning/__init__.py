"""Rounds of pruning: scores, ranking, rewinding, controls, reports."""

from gptjax.pruning.rounds import Pruned as Pruned
from gptjax.pruning.rounds import run as run
