"""The bytes that are told before calibration starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model, tree
from gptjax.pruning import calibration
from gptjax.pruning.criteria import taylor
from gptjax.pruning.structured import activation, leave_out, reading
from gptjax.pruning.structured import taylor as structured_taylor


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


def test_scores_of_all_weights_at_once_are_counted(tiny_config, dense_masks):
    """They take as much as the weights, where those of one block take a third."""
    how = {"sequences": 4, "sequence_tokens": 10, "batch_sequences": 2}
    found = calibration.estimate_at_once(
        tiny_config, model.shapes(tiny_config), dense_masks.shapes, **how
    )
    by_blocks = estimate(tiny_config, dense_masks, criterion="wanda")
    assert found.weights == by_blocks.weights
    assert found.activations == by_blocks.activations
    weights = 3 * 12 * 16**2
    assert found.statistics == 4 * 3 * (3 * 16 + 64) + 4 * weights
    assert found.masks == 2 * weights


# Attention weights outweigh the rest here, and the logits in none.
READ = model.Config(n_layer=3, n_embd=64, n_head=4, vocab_size=300, n_positions=128)


@pytest.mark.parametrize("read", ["activations", "loss", "gates", "weights"])
def test_what_is_told_of_batches_is_what_xla_sets_aside(read, one_device):
    """Half of it, and the run ends out of memory in spite of the line."""
    params, mesh = model.shapes(READ), one_device
    tokens_BT = jax.ShapeDtypeStruct((4, 128), jnp.int32)
    weights_B = jax.ShapeDtypeStruct((4,), jnp.float32)
    batch = (READ, params, tokens_BT, weights_B)
    score = functools.partial(taylor.scores, READ, mesh=mesh, batch_sequences=4)
    lowered = {
        "activations": lambda: reading._watched.lower(
            *batch, activation._heads(READ.kv_heads), mesh
        ),
        "loss": lambda: leave_out._loss.lower(*batch, np.ones(3, bool), mesh),
        "gates": lambda: structured_taylor._squared_gradients.lower(
            *batch, "heads", mesh
        ),
        "weights": lambda: jax.jit(
            lambda params: score(params, np.zeros((8, 128), np.int32))
        ).lower(params),
    }[read]()
    taken = lowered.compile().memory_analysis()
    bytes_ = taken.temp_size_in_bytes + taken.output_size_in_bytes
    found = calibration.estimate_batches(
        READ, params, sequence_tokens=128, batch_sequences=4, read=read
    )
    assert 0.9 * bytes_ < found.total - found.weights < 2.5 * bytes_
