"""The statement of what pruning saved claims nothing that was not measured."""

from gptjax import reporting

COUNTS = {"zeros": 80, "prunable": 100, "parameters": 160}
SIZES = {"bytes_dense": 640, "bytes_packed": 333}


def _times(pruned):
    return {"step_seconds_dense": 1.0, "step_seconds_pruned": pruned}


def test_zeros_are_counted_against_prunable_and_all_weights():
    """80 % of the prunable weights is 50 % of this model; both must be said."""
    (said,) = reporting.sentences(COUNTS)
    assert said == "Zeros: 80 of 100 prunable weights (80.0%), 50.0% of all 160."


def test_the_export_is_said_not_to_be_smaller():
    """Users of every pruning tool ask why the file did not shrink."""
    (said,) = reporting.sentences(SIZES)
    assert "640 bytes dense" in said
    assert "333 bytes (52.0%) if packed" in said
    assert "takes what it took before" in said


def test_a_gain_within_the_noise_is_no_speed_up():
    """3 % on a busy machine is nothing to advertise."""
    for pruned in (0.97, 1.0, 1.03):
        (said,) = reporting.sentences(_times(pruned))
        assert "A training step: no speed-up:" in said


def test_a_real_gain_is_given_as_a_ratio():
    """Half the time is twice as fast, and both times stand beside it."""
    (said,) = reporting.sentences(_times(0.5))
    assert said.startswith("A training step: 2.00 times as fast")
    assert "500 ms pruned" in said


def test_pairs_that_disagree_are_no_speed_up():
    """On a busy machine a median of few pairs is off by more than any threshold."""
    (said,) = reporting.sentences({**_times(0.8), "step_ratios": [0.7, 0.8, 1.1]})
    assert "no speed-up: 0.80 times the dense time" in said
    assert "0.70 to 1.10 over 3 pairs" in said


def test_a_slowdown_is_said():
    """Slower must not hide behind `no speed-up`."""
    (said,) = reporting.sentences(_times(1.5))
    assert "no speed-up, but slower: 1.50 times the dense time" in said


def test_what_was_not_measured_is_not_mentioned():
    """No sentence may be made up of missing figures."""
    assert reporting.sentences({"step_seconds_dense": 1.0}) == []
