"""Searching settings: optuna proposes, gptjax trains, prunes and compares."""

from gptjax.tuning.results import Results as Results
from gptjax.tuning.results import print_results as print_results
from gptjax.tuning.search import run as run
