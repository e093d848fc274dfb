"""The statement of what pruning saved claims nothing that was not measured."""

import pytest

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


NOTHING = "no speed-up from zeros alone on this backend"


def test_a_gain_within_the_noise_is_no_speed_up():
    """3 % on a busy machine is nothing to advertise."""
    for pruned in (0.97, 1.0, 1.03):
        (said,) = reporting.sentences(_times(pruned))
        assert f"A training step: {NOTHING}:" in said


def test_the_backend_is_named_where_it_is_known():
    """Zeros that gain nothing on one backend may gain something on another."""
    (said,) = reporting.sentences({**_times(1.0), "backend": "cpu"})
    assert f"{NOTHING} (cpu): 1.00 times the dense time" in said


def test_a_real_gain_is_given_as_a_ratio():
    """Half the time is twice as fast, and both times stand beside it."""
    (said,) = reporting.sentences(_times(0.5))
    assert said.startswith("A training step: 2.00 times as fast")
    assert "500 ms pruned" in said
    assert "no speed-up" not in said


def test_pairs_that_disagree_are_no_speed_up():
    """On a busy machine a median of few pairs is off by more than any threshold."""
    (said,) = reporting.sentences({**_times(0.8), "step_ratios": [0.7, 0.8, 1.1]})
    assert f"{NOTHING}: 0.80 times the dense time" in said
    assert "0.70 to 1.10 over 3 pairs" in said


def test_a_slowdown_is_said():
    """Slower must not hide behind `no speed-up`."""
    (said,) = reporting.sentences(_times(1.5))
    assert f"{NOTHING}, but slower: 1.50 times the dense time" in said


@pytest.mark.parametrize(
    ("removed", "ratios", "verdict"),
    [
        (0.5, [0.45, 0.5, 0.55], "2.00 times as fast as before, 0.50 times the dense"),
        (0.8, [0.7, 0.8, 1.1], "no speed-up: 0.80 times the dense time"),
        (1.5, [1.4, 1.5, 1.6], "no speed-up, but slower: 1.50 times the dense time"),
    ],
)
def test_removal_stands_beside_the_zeros_whichever_way_it_went(
    removed, ratios, verdict
):
    """What removal gives is what tells a reader whether zeros were the mistake."""
    measured = {"step_seconds_removed": removed, "step_ratios_removed": ratios}
    (said,) = reporting.sentences({**_times(1.0), **measured})
    assert f"A training step: {NOTHING}" in said
    assert f"With as much removed physically: {verdict}" in said


@pytest.mark.parametrize(
    ("removed", "verdict"),
    [
        (0.5, "A training step: 2.00 times as fast as before"),
        (1.0, "A training step: no speed-up at this size: 1.00 times the dense time"),
    ],
)
def test_a_model_that_was_cut_is_not_spoken_of_as_zeros(removed, verdict):
    """Nothing of it is masked: its own time is the removed one."""
    (said,) = reporting.sentences(
        {"step_seconds_dense": 1.0, "step_seconds_removed": removed}
    )
    assert said.startswith(verdict)
    assert "zeros" not in said


def test_the_reference_is_said_to_be_one():
    """Untrained weights must not be taken for a result of the run."""
    sizes = {"layers": 2, "width": 8, "heads": 1, "neurons": 16, "parameters": 1234}
    (said,) = reporting.sentences({"removed": {"is_reference": True, **sizes}})
    assert "for comparison" in said
    assert "never been trained" in said
    assert "heads 1, MLP neurons 16: 1,234 weights" in said
    (said,) = reporting.sentences({"removed": {"is_reference": False, **sizes}})
    assert said.startswith("Removed: what was pruned is gone, not zero")


def test_zipped_bytes_are_those_of_source_and_pruned_model():
    """Zeros zip well, and so does some of a dense model: both must be said."""
    zipped = {"bytes_zipped": 200, "bytes_zipped_dense": 590, "zip_level": 1}
    (said,) = reporting.sentences({**SIZES, **zipped})
    assert "200 bytes zipped (deflate, level 1)" in said
    assert "the source is 590 bytes zipped" in said


def test_the_layers_with_the_fewest_and_the_most_zeros_are_named():
    """A global ranking may empty one layer: the mean hides it."""
    layers = {"mlp/up": [0.5, 0.98], "attn/out": [0.25, 0.4]}
    (said,) = reporting.sentences({"sparsity_per_layer": layers})
    assert said == (
        "Zeros per layer: from 25.0% of attn/out in layer 0 to 98.0% of mlp/up in "
        "layer 1."
    )
    (said,) = reporting.sentences({"sparsity_per_layer": {"mlp/up": [0.5, 0.5]}})
    assert said == "Zeros per layer: 50.0% in every one."


def test_what_was_not_measured_is_not_mentioned():
    """No sentence may be made up of missing figures."""
    assert reporting.sentences({"step_seconds_dense": 1.0}) == []
