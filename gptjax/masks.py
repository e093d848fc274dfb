"""Which weights survive: bool trees shaped like params, and what keeps zeros zero.

A tree of masks has exactly the structure of params. A prunable leaf has a bool array
of its shape and sharding, True where the weight survives; every other leaf has the
scalar True.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy

from gptjax import errors, files, sharding, tree

Masks = dict[str, Any]


def freeze_pruned() -> optax.GradientTransformationExtraArgs:
    """Zeroes the updates of pruned weights.

    Belongs at both ends of a chain: first, so that pruned weights add nothing to
    the clipped gradient norm or to the optimizer's moments; last, so that weight
    decay and leftover momentum cannot revive them.

    Returns:
      A stateless transformation whose `update` needs the keyword `masks`, a tree
      like `params` of bool arrays, True where the weight survives.
    """

    def update(updates, state, params=None, *, masks, **extra):
        del params, extra
        return apply(updates, masks), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def apply(params: Any, masks: Masks) -> Any:
    """`params`, or anything shaped like them, with pruned entries exactly 0.

    Selects and does not multiply, since 0 * NaN is NaN.
    """

    def select(mask, leaf):
        if not is_prunable(mask):
            return leaf
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(select, masks, params)


@functools.partial(jax.jit, donate_argnums=0)
def apply_in_place(params: Any, masks: Masks) -> Any:
    """`apply` in the memory of `params`, which are donated."""
    return apply(params, masks)


def is_prunable(mask: Any) -> bool:
    """Whether a leaf of masks, or its shape, belongs to a prunable leaf of params."""
    return mask.ndim > 0


def shapes(params: Any, prunable: tree.Rules) -> Masks:
    """The masks of `params` as a tree of `jax.ShapeDtypeStruct`.

    Args:
      params: a tree of arrays or shapes.
      prunable: rules (regex of the slash path, whether it may be pruned).

    Raises:
      UserError: a rule that covers no leaf, a leaf that no rule covers, or a
        prunable leaf without at least two dimensions in each layer's weight.
    """

    def shape(path, leaf, may_be_pruned):
        axes_of_a_layer = leaf.ndim - is_stacked(path)
        if may_be_pruned and axes_of_a_layer < 2:
            raise errors.UserError(
                f"pruning.prunable: {path} {leaf.shape} holds vectors; only weights "
                "of at least two dimensions can be pruned"
            )
        return jax.ShapeDtypeStruct(leaf.shape if may_be_pruned else (), bool)

    rules = tree.match_tree(prunable, params, table="pruning.prunable")
    return tree.map_with_path(shape, params, rules)


def dense(params: Any, prunable: tree.Rules) -> Masks:
    """Masks under which every weight survives, sharded as the arrays of `params`."""

    def ones(leaf, mask):
        if not is_prunable(mask):
            return np.True_
        return jnp.ones(leaf.shape, bool, device=leaf.sharding)

    return jax.tree.map(ones, params, shapes(params, prunable))


def of_zeros(params: Any, prunable: tree.Rules) -> Masks:
    """The masks that params' own zeros stand for, as `dense` makes them."""

    def alive(leaf, mask):
        return leaf != 0 if is_prunable(mask) else np.True_

    return jax.tree.map(alive, params, shapes(params, prunable))


@jax.jit
def pack(masks: Masks) -> Masks:
    """Masks as bits: uint8 arrays whose first axis is an eighth as long, rounded up.

    Bit b of entry i is the mask of entry 8 i + b. The first axis is that of the layers,
    or of the vocabulary: it is never split over devices, so that bits lie as their
    weights do, and it is no axis that a layout of the arrays minds.
    """

    def pack_leaf(mask):
        if not is_prunable(mask):
            return mask
        eighths = -(-mask.shape[0] // 8)
        fill = [(0, 8 * eighths - mask.shape[0])] + [(0, 0)] * (mask.ndim - 1)
        bits = jnp.pad(mask, fill).reshape(eighths, 8, *mask.shape[1:])
        return jnp.sum(
            bits.astype(jnp.uint8) << _bit_numbers(bits), axis=1, dtype=jnp.uint8
        )

    return jax.tree.map(pack_leaf, masks)


@jax.jit
def unpack(bits: Masks, params: Any) -> Masks:
    """The masks that `pack` packed, of the shapes of `params`."""

    def unpack_leaf(packed, leaf):
        if not is_prunable(packed):
            return packed
        spread = jnp.broadcast_to(packed[:, None], (len(packed), 8, *packed.shape[1:]))
        mask = (spread >> _bit_numbers(spread)) & 1
        return mask.reshape(-1, *packed.shape[1:])[: leaf.shape[0]].astype(bool)

    return jax.tree.map(unpack_leaf, bits, params)


def _bit_numbers(like: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.uint8, like.shape, 1)


def survivors(masks: Masks) -> dict[str, np.ndarray]:
    """How many weights survive in each layer of each prunable leaf.

    Returns:
      Slash path -> int64 array (L,), or (1,) for a leaf outside the blocks.
    """
    prunable = {
        path: mask for path, mask in tree.flatten(masks).items() if is_prunable(mask)
    }
    counts = _count({path: by_layer(path, mask) for path, mask in prunable.items()})
    return {
        path: np.asarray(sharding.to_host(count), np.int64)
        for path, count in counts.items()
    }


@jax.jit
def _count(layers: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(
        lambda x: x.sum(tuple(range(1, x.ndim)), dtype=jnp.int32), layers
    )


def is_stacked(path: str) -> bool:
    """Whether a leaf holds all layers' weights, along its first axis."""
    return path.startswith("blocks/")


def kind(path: str) -> str:
    """What a leaf is called for short, e.g. `mlp/up`, as in reports and configs."""
    return path.removeprefix("blocks/").removesuffix("/kernel")


def by_layer(path: str, leaf: jax.Array) -> jax.Array:
    """`leaf` with layers on its first axis; an unstacked leaf is one layer."""
    return leaf if is_stacked(path) else leaf[None]


def layer_sizes(masks: Masks) -> dict[str, np.ndarray]:
    """How many weights each layer of each prunable leaf has, as `survivors` gives."""
    sizes = {}
    for path, mask in tree.flatten(masks).items():
        if is_prunable(mask):
            layers = mask.shape[0] if is_stacked(path) else 1
            sizes[path] = np.full(layers, mask.size // layers, np.int64)
    return sizes


def sparsity(masks: Masks) -> float:
    """The fraction of prunable weights that are pruned."""
    alive = sum(int(count.sum()) for count in survivors(masks).values())
    total = sum(int(size.sum()) for size in layer_sizes(masks).values())
    return 1 - alive / total if total else 0.0


def zeros(params: Any, prunable: tree.Rules) -> tuple[int, int]:
    """How many of the prunable weights are exactly 0, and how many there are."""
    found = of_zeros(params, prunable)
    total = sum(int(size.sum()) for size in layer_sizes(found).values())
    return total - sum(int(count.sum()) for count in survivors(found).values()), total


def save(path: pathlib.Path, masks: Masks) -> None:
    """Writes masks as a safetensors file of one packed bit a weight.

    Each prunable leaf is a uint8 tensor named by its slash path, bits in the order
    of `numpy.packbits`; its shape stands in the file's metadata.
    """
    packed, shapes = {}, {}
    for name, mask in tree.flatten(masks).items():
        if is_prunable(mask):
            packed[name] = np.packbits(sharding.to_host(mask))
            shapes[name] = "x".join(map(str, mask.shape))
    if jax.process_index() == 0:
        with files.replacing(path) as beside:
            safetensors.numpy.save_file(packed, beside, metadata=shapes)


def load(path: pathlib.Path, params: Any) -> Masks:
    """Masks that `save` wrote, placed as the leaves of `params` are.

    Raises:
      UserError: if the file does not fit `params`.
    """
    flat = tree.flatten(params)
    masks = dict.fromkeys(flat, np.True_)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name, shape in (file.metadata() or {}).items():
                shape = tuple(map(int, shape.split("x")))
                if name not in flat or flat[name].shape != shape:
                    has = flat[name].shape if name in flat else "no such leaf"
                    raise errors.UserError(
                        f"{path}: a mask for {name} {shape}, where the model has {has}"
                    )
                bits = np.unpackbits(file.get_tensor(name), count=flat[name].size)
                mask = bits.astype(bool).reshape(shape)
                masks[name] = sharding.place(mask, flat[name].sharding)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.UserError(f"{path}: not a masks file: {error}") from error
    return tree.unflatten(masks)
