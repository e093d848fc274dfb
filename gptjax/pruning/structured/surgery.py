"""Cutting: fewer layers, neurons, heads or channels, in params and masks alike.

Pure functions of (config, params, masks, what is kept). What a table below says of a
leaf holds for its mask too, so that a weight and its mask are cut along together.
Arrays on a mesh come out on it, sharded by the same rules.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gptjax import masks as masks_lib
from gptjax import model, sharding, tree

# Slash path -> the axis of the leaf, with L where it is stacked.
NEURONS = {
    "blocks/mlp/up/kernel": 2,
    "blocks/mlp/up/bias": 1,
    "blocks/mlp/gate/kernel": 2,
    "blocks/mlp/gate/bias": 1,
    "blocks/mlp/down/kernel": 1,
}
# Where heads share keys, those of keys with all of theirs: they go together.
HEADS = {
    "blocks/attn/qkv/kernel": 3,
    "blocks/attn/qkv/bias": 2,
    "blocks/attn/out/kernel": 1,
}
WIDTH = {
    "embed/tokens/embedding": 1,
    "embed/positions/embedding": 1,
    "embed/norm/scale": 0,
    "embed/norm/bias": 0,
    "head/embedding": 1,
    "ln_f/scale": 0,
    "ln_f/bias": 0,
    "blocks/ln_1/scale": 1,
    "blocks/ln_1/bias": 1,
    "blocks/ln_2/scale": 1,
    "blocks/ln_2/bias": 1,
    "blocks/attn/qkv/kernel": 1,
    "blocks/attn/out/kernel": 3,
    "blocks/attn/out/bias": 1,
    "blocks/mlp/up/kernel": 1,
    "blocks/mlp/gate/kernel": 1,
    "blocks/mlp/down/kernel": 2,
    "blocks/mlp/down/bias": 1,
}

Cut = tuple[model.Config, Any, masks_lib.Masks | None]


def cut(
    config: model.Config,
    params: Any,
    masks: masks_lib.Masks | None,
    kept: Mapping[str, np.ndarray],
) -> Cut:
    """The model with what is kept alone: indices of `layers`, `neurons`, `heads` or
    channels (`width`), one after another."""
    for what, keep in kept.items():
        config, params, masks = _CUTS[what](config, params, masks, keep)
    return config, params, masks


def layers(
    config: model.Config,
    params: Any,
    masks: masks_lib.Masks | None,
    keep: Sequence[int],
) -> Cut:
    """The model of the blocks numbered `keep`, in rising order.

    With `scale_attn_by_inverse_layer_idx` a block's attention scores are divided by
    its number plus 1. Its queries take over the change of number, so that a kept
    block goes on computing what it did.
    """
    windows = config.windows and tuple(config.windows[layer] for layer in keep)
    new = dataclasses.replace(config, n_layer=len(keep), windows=windows)
    axes = {path: 0 for path in _paths(config) if masks_lib.is_stacked(path)}
    params, masks = _take(new, params, masks, axes, np.asarray(keep))
    if config.scale_attn_by_inverse_layer_idx:
        ratio_L = (np.arange(len(keep)) + 1) / (np.asarray(keep) + 1)
        params = _scale_queries(params, jnp.asarray(ratio_L, jnp.float32))
    return new, params, masks


def neurons(
    config: model.Config,
    params: Any,
    masks: masks_lib.Masks | None,
    keep_LF: np.ndarray,
) -> Cut:
    """The model with the MLP neurons `keep_LF` of each layer alone."""
    new = dataclasses.replace(config, n_inner=keep_LF.shape[1])
    return new, *_take(new, params, masks, NEURONS, keep_LF)


def heads(
    config: model.Config,
    params: Any,
    masks: masks_lib.Masks | None,
    keep_LG: np.ndarray,
) -> Cut:
    """The model with the heads of keys `keep_LG` of each layer alone, and the heads of
    queries that read them."""
    count = keep_LG.shape[1]
    new = dataclasses.replace(
        config,
        n_head=count * config.queries,
        n_kv_head=count,
        head_dim=config.head_width,
    )
    # Those of the queries follow each other.
    keep_LGR = keep_LG[..., None] * config.queries + np.arange(config.queries)
    keep_LH = keep_LGR.reshape(len(keep_LG), -1)
    out = "blocks/attn/out/kernel"
    keys = {path: axis for path, axis in HEADS.items() if path != out}
    params, masks = _take(new, params, masks, keys, keep_LG)
    return new, *_take(new, params, masks, {out: HEADS[out]}, keep_LH)


def width(
    config: model.Config, params: Any, masks: masks_lib.Masks | None, keep_D: np.ndarray
) -> Cut:
    """The model with the channels `keep_D` of the residual stream alone.

    Heads and neurons stay as many as they are, and heads as wide.
    """
    new = dataclasses.replace(
        config,
        n_embd=len(keep_D),
        n_inner=config.mlp_width,
        head_dim=config.head_width,
    )
    classifiers = {f"{c.path}/weight": 1 for c in config.classifiers}
    return new, *_take(new, params, masks, WIDTH | classifiers, keep_D)


_CUTS = {"layers": layers, "neurons": neurons, "heads": heads, "width": width}


def _paths(config: model.Config) -> list[str]:
    return list(tree.flatten(model.shapes(config)))


def _take(
    new: model.Config,
    params: Any,
    masks: masks_lib.Masks | None,
    axes: Mapping[str, int],
    keep: np.ndarray,
) -> tuple[Any, masks_lib.Masks | None]:
    """Params and masks with the indices `keep` of the given axes.

    Args:
      new: the config of the result.
      keep: rising; (n,), or (L, n) with own ones for each layer.

    Raises:
      UserError: a dimension of the result that the mesh does not divide.
    """
    flat = tree.flatten(params)
    places = _places(new, flat)
    keep = jnp.asarray(keep, jnp.int32)
    flat = _cut_leaves(flat, axes, keep, places)
    if masks is None:
        return tree.unflatten(flat), None
    flat_masks = tree.flatten(masks)
    prunable = {p: m for p, m in flat_masks.items() if masks_lib.is_prunable(m)}
    prunable = _cut_leaves(prunable, axes, keep, places)
    return tree.unflatten(flat), tree.unflatten({**flat_masks, **prunable})


def _places(new: model.Config, flat: dict[str, jax.Array]) -> dict[str, Any]:
    """Where the leaves of the result lie: on the mesh of what they are cut from."""
    for leaf in flat.values():
        if isinstance(leaf.sharding, NamedSharding):
            places = sharding.param_shardings(leaf.sharding.mesh, model.shapes(new))
            return tree.flatten(places)
    return dict.fromkeys(flat)


def _cut_leaves(
    flat: dict[str, jax.Array],
    axes: Mapping[str, int],
    keep: jax.Array,
    places: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """The leaves that `axes` names are cut; the others stay as they are."""
    return {
        path: _select(leaf, keep, axis=axes[path], place=places[path])
        if path in axes
        else leaf
        for path, leaf in flat.items()
    }


def _select(leaf: jax.Array, keep: jax.Array, *, axis: int, place: Any) -> jax.Array:
    """`leaf` at the indices `keep` of an axis; with (L, n) of them, layer by layer."""

    def select(leaf, keep):
        if keep.ndim == 1:
            return jnp.take(leaf, keep, axis=axis)
        return jax.vmap(functools.partial(jnp.take, axis=axis - 1))(leaf, keep)

    return jax.jit(select, out_shardings=place)(leaf, keep)


def _scale_queries(params: Any, ratio_L: jax.Array) -> Any:
    """Params whose queries, biases included, are multiplied by a number a layer."""
    flat = tree.flatten(params)

    def scale(leaf, ratio_L, *, axis):
        # The axis of q, k and v comes after L and, for the kernel, D.
        ratio = (
            jnp.ones((len(ratio_L), leaf.shape[axis])).at[:, :-2].set(ratio_L[:, None])
        )
        shape = [1] * leaf.ndim
        shape[0], shape[axis] = ratio.shape
        return (leaf * ratio.reshape(shape)).astype(leaf.dtype)

    for path, axis in (("blocks/attn/qkv/kernel", 2), ("blocks/attn/qkv/bias", 1)):
        if path not in flat:
            continue
        leaf = flat[path]
        run = jax.jit(functools.partial(scale, axis=axis), out_shardings=leaf.sharding)
        flat[path] = run(leaf, ratio_L)
    return tree.unflatten(flat)
