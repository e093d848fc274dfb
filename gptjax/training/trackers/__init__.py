"""Experiment trackers that metrics go to beside the run folder."""

from gptjax.training.trackers.several import Trackers as Trackers
from gptjax.training.trackers.several import check as check
