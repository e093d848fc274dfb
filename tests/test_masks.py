"""Weight masks, and the transformation that keeps zeros zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import config, errors, masks, model, sharding

RULES = ((r"blocks/w", True), (r".*", False))
PARAMS = {
    "blocks": {"w": jnp.arange(1.0, 13.0).reshape(2, 2, 3)},
    "bias": jnp.ones(3),
}


def some_masks():
    mask = np.ones((2, 2, 3), bool)
    mask[0, 0, 1] = mask[1, 1, 2] = mask[1, 0, 0] = False
    return {"blocks": {"w": jnp.asarray(mask)}, "bias": np.True_}


def test_masks_have_the_structure_of_params():
    """jax.tree.map over both must never stop at a None."""
    dense = masks.dense(PARAMS, RULES)
    chex.assert_trees_all_equal_structs(dense, PARAMS)
    assert dense["bias"].ndim == 0
    assert dense["blocks"]["w"].all()


def test_apply_selects_and_does_not_multiply():
    """0 * NaN is NaN: a pruned weight that overflowed would come back."""
    params = jax.tree.map(lambda x: x * jnp.nan, PARAMS)
    pruned = masks.apply(params, some_masks())
    mask = np.asarray(some_masks()["blocks"]["w"])
    assert (np.asarray(pruned["blocks"]["w"])[~mask] == 0).all()
    assert np.isnan(np.asarray(pruned["blocks"]["w"])[mask]).all()


def test_counts_and_sparsity():
    """Counted by hand: 1 of 6 weights in layer 0, 2 of 6 in layer 1."""
    np.testing.assert_array_equal(masks.survivors(some_masks())["blocks/w"], [5, 4])
    assert masks.sparsity(some_masks()) == pytest.approx(3 / 12)


def test_frozen_at_one_end_only_leftover_momentum_revives_pruned_weights():
    """The reason for two freezes: moments from before the pruning go on moving."""
    params, grads = PARAMS, jax.tree.map(jnp.ones_like, PARAMS)
    freeze = masks.freeze_pruned()
    chains = {
        "first": optax.chain(freeze, optax.adam(0.1)),
        "both": optax.chain(freeze, optax.adam(0.1), freeze),
    }
    moved = {}
    for name, chain in chains.items():
        state = chain.init(params)
        _, state = chain.update(grads, state, params, masks=masks.dense(params, RULES))
        updates, _ = chain.update(grads, state, params, masks=some_masks())
        pruned = ~np.asarray(some_masks()["blocks"]["w"])
        moved[name] = np.abs(np.asarray(updates["blocks"]["w"])[pruned]).max()
    assert moved["both"] == 0 < moved["first"]


@pytest.mark.parametrize("on_mesh", [False, True])
def test_saved_masks_load_as_they_were_in_an_eighth_of_a_byte_each(tmp_path, on_mesh):
    """Bits cross a file format, and on a mesh devices, without moving."""
    small = model.Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16, n_positions=4)
    params = model.init(jax.random.key(0), small)
    if on_mesh:
        mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
        params = sharding.place(params, sharding.param_shardings(mesh, params))
    dense = masks.dense(params, config.Pruning(sparsities=(0.5,)).prunable)
    drawn = jax.tree.map(
        lambda mask, w: w > 0 if masks.is_prunable(mask) else mask, dense, params
    )
    path = tmp_path / "masks.safetensors"
    masks.save(path, drawn)
    loaded = masks.load(path, params)
    chex.assert_trees_all_equal(loaded, drawn)
    kernel = loaded["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding == params["blocks"]["mlp"]["up"]["kernel"].sharding
    weights = sum(size.sum() for size in masks.layer_sizes(drawn).values())
    assert weights / 8 <= path.stat().st_size < weights / 8 + 1000


def test_masks_of_another_model_are_refused(tmp_path):
    """Bits of another shape would otherwise be read in a shifted order."""
    path = tmp_path / "masks.safetensors"
    masks.save(path, some_masks())
    other = {"blocks": {"w": jnp.ones((2, 3, 2))}, "bias": jnp.ones(3)}
    with pytest.raises(
        errors.UserError, match=r"blocks/w \(2, 2, 3\), where the model"
    ):
        masks.load(path, other)
    path.write_bytes(b"half a file")
    with pytest.raises(errors.UserError, match="not a masks file"):
        masks.load(path, PARAMS)


def test_vectors_cannot_be_prunable():
    """A bias has one number a neuron; magnitude says nothing about it."""
    params = {"blocks": {"w": jnp.ones((2, 3))}, "bias": jnp.ones(3)}
    with pytest.raises(errors.UserError, match=r"blocks/w .* holds vectors"):
        masks.dense(params, RULES)


@pytest.mark.parametrize("layers", [1, 7, 8, 9, 17])
def test_packed_masks_are_numpys_bits_along_the_layers(layers):
    """A bit at the wrong place would prune another layer's weight."""
    rng = np.random.default_rng(layers)
    params = {"kernel": np.zeros((layers, 3, 5)), "bias": np.zeros((layers, 5))}
    mask = rng.random((layers, 3, 5)) < 0.5
    packed = masks.pack({"kernel": jnp.asarray(mask), "bias": np.True_})
    expected = np.packbits(mask, axis=0, bitorder="little")
    np.testing.assert_array_equal(packed["kernel"], expected)
    found = masks.unpack(packed, params)
    np.testing.assert_array_equal(found["kernel"], mask)
    assert found["bias"].shape == ()
