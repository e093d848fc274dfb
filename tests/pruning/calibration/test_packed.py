"""Masks as bits are the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from gptjax import masks
from gptjax.pruning import calibration


def make_masks(rng):
    """Layers of 15 weights, which do not end on a byte, and a leaf without layers."""
    return {
        "blocks": {"mlp": {"up": {"kernel": jnp.asarray(rng.random((4, 3, 5)) < 0.5)}}},
        "embed": {"tokens": {"embedding": jnp.asarray(rng.random((7, 3)) < 0.5)}},
        "ln_f": {"scale": np.True_},
    }


def contents(path):
    """Names, metadata and tensors of a file; their order in it may differ."""
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.offset_keys()}
        return tensors, file.metadata()


def test_a_file_of_packed_masks_is_the_file_that_masks_save_writes(tmp_path):
    """Layers that are packed apart have to join to the bits of the leaf."""
    given = make_masks(np.random.default_rng(0))
    packed = calibration.PackedMasks.of(given)
    masks.save(tmp_path / "a", given)
    packed.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    layer = np.random.default_rng(1).random((3, 5)) < 0.5
    path = "blocks/mlp/up/kernel"
    packed = packed.replaced({(path, 2): np.packbits(layer)})
    kernel = given["blocks"]["mlp"]["up"]["kernel"]
    given["blocks"]["mlp"]["up"]["kernel"] = kernel.at[2].set(layer)
    masks.save(tmp_path / "a", given)
    packed.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    np.testing.assert_array_equal(packed.layer(path, 2), layer)


def test_layers_that_are_not_there_have_lost_nothing(tmp_path):
    """Dense masks of a large model take no memory, and must not read as pruned."""
    ones = jax.tree.map(jnp.ones_like, make_masks(np.random.default_rng(0)))
    dense = calibration.PackedMasks.of(ones)
    empty = calibration.PackedMasks(dense.shapes)
    assert empty.checksum() == dense.checksum()
    empty.save(tmp_path / "a")
    masks.save(tmp_path / "b", ones)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    pruned = {("embed/tokens/embedding", 0): np.packbits(np.zeros((7, 3), bool))}
    assert empty.replaced(pruned).checksum() != dense.checksum()
