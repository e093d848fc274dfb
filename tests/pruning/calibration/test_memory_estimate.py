"""The bytes that are told before calibration starts."""

import pytest

from gptjax import model, tree
from gptjax.pruning import calibration


def estimate(config, masks, **changes):
    """`calibration.estimate` of four sequences of ten tokens."""
    how = {
        "sequences": 4,
        "sequence_tokens": 10,
        "batch_sequences": 2,
        "criterion": "sparsegpt",
        "reconstructs": False,
        **changes,
    }
    return calibration.estimate(config, model.shapes(config), masks.shapes, **how)


def test_what_can_be_counted_by_hand_is(tiny_config, dense_masks, tiny, one_device):
    """A dimension forgotten, and the line promises a tenth of what it takes."""
    found = estimate(tiny_config, dense_masks)
    leaves = tree.flatten(tiny(one_device)).values()
    assert found.weights == sum(leaf.nbytes for leaf in leaves)
    assert found.activations == 4 * 4 * 10 * 16
    assert found.statistics == 4 * (3 * 16**2 + 64**2)
    assert found.masks == 3 * 12 * 16**2 // 8 + 16 * 64
    wanda = estimate(tiny_config, dense_masks, criterion="wanda")
    assert wanda.statistics == 4 * (3 * 16 + 64)
    both = estimate(tiny_config, dense_masks, criterion=None, reconstructs=True)
    assert both.activations == 2 * found.activations


@pytest.mark.parametrize("more", ["sequence_tokens", "batch_sequences"])
def test_longer_sequences_and_larger_batches_take_more(more, tiny_config, dense_masks):
    """What the reader of the line can change has to show in it."""
    less = estimate(tiny_config, dense_masks, reconstructs=True)
    assert (
        estimate(tiny_config, dense_masks, reconstructs=True, **{more: 40}).workspace
        > less.workspace
    )


def test_the_line_is_one_line(tiny_config, dense_masks):
    """It is read before a long wait, and in logs."""
    line = estimate(tiny_config, dense_masks).line()
    assert "\n" not in line
    assert line.startswith("calibration will take about ")
    assert "activations 3 kB" in line
