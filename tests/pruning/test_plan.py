"""Rounds, their sparsities and their places in the schedule."""

import pytest

from gptjax import config
from gptjax.pruning import plan


def rounds(**pruning):
    settings = {
        "model": "m",
        "out": "o",
        "training": {"steps": 100},
        "pruning": pruning,
    }
    return [
        (r.name, r.sparsity, r.start, r.end)
        for r in plan.rounds(config.check(settings))
    ]


def test_a_restarted_schedule_replays_for_every_round():
    """Learning-rate rewinding, Renda et al.: all rounds train like round 0."""
    assert rounds(sparsities=[0.5, 0.8]) == [
        ("00", 0.0, 0, 100),
        ("01", 0.5, 0, 100),
        ("02", 0.8, 0, 100),
    ]


def test_rewinding_to_step_k_replays_from_k():
    """Frankle et al.: weights and schedule both go back to step k."""
    planned = rounds(sparsities=[0.5], rewind={"to": "step:30"})
    assert planned == [("00", 0.0, 0, 100), ("01", 0.5, 30, 100)]


def test_a_continued_schedule_spans_all_rounds_without_a_gap():
    """A gap or an overlap would jump the learning rate between rounds."""
    rewind = {"to": "step:30", "schedule": "continue"}
    planned = rounds(sparsities=[0.5, 0.8], rewind=rewind)
    assert planned == [
        ("00", 0.0, 0, 100),
        ("01", 0.5, 100, 170),
        ("02", 0.8, 170, 240),
    ]


def test_a_fraction_per_round_gives_rising_targets():
    """20 % of the survivors in each round, as in the lottery-ticket papers."""
    planned = rounds(fraction_per_round=0.2, rounds=2)
    assert [sparsity for _, sparsity, _, _ in planned] == pytest.approx([0, 0.2, 0.36])
