"""Pruning: criteria, patterns, schedules, calibration, structure, comparisons."""

from gptjax.pruning.comparing import run as compare
from gptjax.pruning.rounds import Pruned as Pruned
from gptjax.pruning.runs import run as run

__all__ = ["Pruned", "compare", "run"]
