"""Prunes exactly the k lowest scores, without sorting and without gathering.

Scores become uint32 keys of the same order, and the k-th lowest key is found by
bisection: 32 counts of "how many keys lie below t", each a sum that stays where the
array is sharded. Ties at that key break by index (leaf in order of its path, then
group, then place in the group), found by a second bisection over indices.

A group is what shares a threshold: a layer of a leaf, or one output of it (a row, as
the papers say that store outputs first). Numbers of groups are arrays of the leaf's
shape with 1 for the axes that a group spans.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors, masks, sharding, tree
from gptjax.pruning import matrices

# Slash path -> one number for each layer of the leaf.
PerLayer = dict[str, np.ndarray]
# Slash path -> one number for each group, broadcastable to the leaf by layers.
PerGroup = dict[str, np.ndarray]


def prune_to(
    scores: Any, current: masks.Masks, *, sparsity: float, scope: str
) -> masks.Masks:
    """Masks of the given sparsity, nested in `current`, that drop the lowest scores.

    Args:
      scores: a tree like params; those of prunable leaves are ranked as float32.
      current: the masks so far; pruned weights stay pruned and count first.
      sparsity: fraction of prunable weights to be pruned after this. The count is
        `round(sparsity * n)`, as in `torch.nn.utils.prune`.
      scope: "global" ranks all weights together; "layer" each layer of each leaf on
        its own, to the same sparsity each; "row" each output's inputs.

    Raises:
      UserError: a NaN score, or a sparsity below that of `current`.
    """
    sizes = masks.layer_sizes(current)
    if scope == "global":
        total = sum(int(size.sum()) for size in sizes.values())
        return _prune(scores, current, round(sparsity * total))
    sparsities = {path: np.full(size.shape, sparsity) for path, size in sizes.items()}
    prune = prune_rows if scope == "row" else prune_layers
    return prune(scores, current, sparsities)


def prune_layers(
    scores: Any, current: masks.Masks, sparsities: PerLayer
) -> masks.Masks:
    """`prune_to` with a sparsity for each layer of each leaf."""
    sizes = masks.layer_sizes(current)
    counts = {path: _rounded(sparsities[path], size) for path, size in sizes.items()}
    return _prune(scores, current, counts)


def prune_counts(scores: Any, current: masks.Masks, counts: PerLayer) -> masks.Masks:
    """`prune_to` with the number to be pruned given for each layer of each leaf."""
    return _prune(scores, current, counts)


def prune_rows(scores: Any, current: masks.Masks, sparsities: PerLayer) -> masks.Masks:
    """`prune_to` within each output: of its n inputs `round(sparsity * n)` go.

    Args:
      sparsities: for each layer of each leaf. A row that has lost more already keeps
        what it has.
    """
    counts = {}
    for path, size in _group_sizes(current, by_row=True).items():
        inputs = int(size.flat[0])
        counts[path] = _rounded(sparsities[path], np.full(len(size), inputs))
    return _prune(scores, current, counts, by_row=True)


def check_ordered(flat_scores: dict[str, jax.Array]) -> None:
    """Raises a `UserError` naming a leaf whose scores hold a NaN: it has no rank."""
    for path, is_nan in _any_nan(flat_scores).items():
        if is_nan:
            raise errors.UserError(f"{path}: its scores hold a NaN; nothing was pruned")


def _rounded(sparsities: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    pairs = zip(np.broadcast_to(sparsities, sizes.shape), sizes, strict=True)
    return np.array([round(float(s) * int(size)) for s, size in pairs], np.int64)


def _group_axes(path: str, dimensions: int, by_row: bool) -> tuple[int, ...]:
    """The axes, of a leaf with layers first, that a group spans."""
    axes = matrices.input_axes(path) if by_row else dimensions - 1
    return tuple(range(1, 1 + axes))


def _group_sizes(current: masks.Masks, *, by_row: bool) -> PerGroup:
    """How many weights each group has."""
    sizes = {}
    for path, mask in tree.flatten(current).items():
        if masks.is_prunable(mask):
            shape = list(mask.shape if masks.is_stacked(path) else (1, *mask.shape))
            axes = _group_axes(path, len(shape), by_row)
            size = math.prod(shape[axis] for axis in axes)
            for axis in axes:
                shape[axis] = 1
            sizes[path] = np.full(shape, size, np.int64)
    return sizes


def _prune(
    scores: Any,
    current: masks.Masks,
    counts: PerLayer | int,
    *,
    by_row: bool = False,
) -> masks.Masks:
    flat_masks = {
        path: mask
        for path, mask in tree.flatten(current).items()
        if masks.is_prunable(mask)
    }
    flat_scores = {
        path: score
        for path, score in tree.flatten(scores).items()
        if path in flat_masks
    }
    if not flat_masks:
        raise errors.UserError("pruning.prunable: the rules leave nothing to prune")
    check_ordered(flat_scores)
    sizes = _group_sizes(current, by_row=by_row)
    already = _on_host(_count_pruned(flat_masks, by_row=by_row))
    if not isinstance(counts, int):
        counts = {
            path: np.broadcast_to(
                counts[path].reshape(-1, *(1,) * (size.ndim - 1)), size.shape
            )
            for path, size in sizes.items()
        }
    if by_row:
        counts = {path: np.maximum(counts[path], already[path]) for path in sizes}
    _check_nested(already, counts)

    def below(thresholds: PerGroup) -> PerGroup:
        return _on_host(
            _count_below(flat_scores, flat_masks, _as_uint32(thresholds), by_row=by_row)
        )

    def tied_before(stops: PerGroup) -> PerGroup:
        numbers = (_as_uint32(thresholds), _as_uint32(stops))
        return _on_host(_count_ties(flat_scores, flat_masks, *numbers, by_row=by_row))

    thresholds = _kth_lowest(below, sizes, counts)
    under = below(thresholds)
    level = {
        path: below_next - under[path]
        for path, below_next in below(
            {path: t + 1 for path, t in thresholds.items()}
        ).items()
    }
    take = _share_out(counts, under, level)
    stops = _tie_stops(tied_before, take, level, sizes)

    drop = _dropper(tuple((path, mask.sharding) for path, mask in flat_masks.items()))
    new = drop(
        flat_scores,
        flat_masks,
        _as_uint32(thresholds),
        _as_uint32(stops),
        by_row=by_row,
    )
    return tree.unflatten({**tree.flatten(current), **new})


def _check_nested(already: PerGroup, counts: PerGroup | int) -> None:
    if isinstance(counts, int):
        done = sum(int(count.sum()) for count in already.values())
        if counts < done:
            raise errors.UserError(
                f"pruning to {counts} weights, where {done} are pruned already"
            )
        return
    for path, count in counts.items():
        if (count < already[path]).any():
            group = int(np.argmax(count < already[path]))
            raise errors.UserError(
                f"{path} layer {group}: pruning to {count.flat[group]} weights, where "
                f"{already[path].flat[group]} are pruned already"
            )


def _kth_lowest(below, sizes: PerGroup, counts: PerGroup | int) -> PerGroup:
    """The largest key t, in each group, below which no more than k keys lie.

    Where `counts` is one number, everything is one group.
    """
    low = {path: np.zeros(size.shape, np.int64) for path, size in sizes.items()}
    high = {path: np.full(size.shape, 2**32, np.int64) for path, size in sizes.items()}
    for _ in range(32):
        middle = {path: (low[path] + high[path]) // 2 for path in low}
        found = below(middle)
        if isinstance(counts, int):
            fits_all = sum(int(count.sum()) for count in found.values()) <= counts
            fits = {
                path: np.full(count.shape, fits_all) for path, count in found.items()
            }
        else:
            fits = {path: found[path] <= counts[path] for path in found}
        for path in low:
            low[path] = np.where(fits[path], middle[path], low[path])
            high[path] = np.where(fits[path], high[path], middle[path])
    return low


def _share_out(counts: PerGroup | int, under: PerGroup, level: PerGroup) -> PerGroup:
    """How many of the tied keys each group gives, the earlier groups first."""
    if not isinstance(counts, int):
        return {path: counts[path] - under[path] for path in under}
    left = counts - sum(int(count.sum()) for count in under.values())
    take = {}
    for path, ties in level.items():
        before = (np.cumsum(ties) - ties.ravel()).reshape(ties.shape)
        take[path] = np.clip(left - before, 0, ties)
        left -= int(take[path].sum())
    return take


def _tie_stops(tied_before, take, level, sizes) -> PerGroup:
    """The index in each group before which tied keys are pruned."""
    stops = {path: np.where(take[path] == level[path], sizes[path], 0) for path in take}
    open_ = {path: (take[path] > 0) & (take[path] < level[path]) for path in take}
    if not any(is_open.any() for is_open in open_.values()):
        return stops
    low, high = {p: np.zeros_like(s) for p, s in sizes.items()}, dict(sizes)
    for _ in range(32):
        middle = {path: (low[path] + high[path]) // 2 for path in low}
        found = tied_before(middle)
        for path in low:
            enough = found[path] >= take[path]
            high[path] = np.where(enough, middle[path], high[path])
            low[path] = np.where(enough, low[path], middle[path])
    return {path: np.where(open_[path], high[path], stops[path]) for path in stops}


def _as_uint32(numbers: PerGroup) -> dict[str, np.ndarray]:
    # 2**32 itself is never needed: no key exceeds that of +inf, no group has more
    # weights than that.
    return {
        path: np.minimum(n, 2**32 - 1).astype(np.uint32) for path, n in numbers.items()
    }


def _on_host(counts: dict[str, jax.Array]) -> PerGroup:
    return {
        path: np.asarray(sharding.to_host(count), np.int64)
        for path, count in counts.items()
    }


def _keys(score: jax.Array, mask: jax.Array) -> jax.Array:
    """uint32 of the same order as the float32 scores; 0 for what is pruned already."""
    score = score.astype(jnp.float32)
    score = jnp.where(score == 0, 0.0, score)  # -0.0 ties with 0.0
    bits = jax.lax.bitcast_convert_type(score, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    ordered = jnp.where(bits & sign, ~bits, bits | sign)
    return jnp.where(mask, ordered, jnp.uint32(0))


def _indices(like: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Each weight's place in its group, counted in C order, as uint32."""
    index = jnp.zeros(like.shape, jnp.uint32)
    stride = 1
    for axis in reversed(axes):
        along = jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis)
        index += along * jnp.uint32(stride)
        stride *= like.shape[axis]
    return index


def _per_group(is_counted: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return is_counted.sum(axes, dtype=jnp.int32, keepdims=True)


def _each(function, scores, current, *numbers, by_row):
    """`function(keys, axes, *numbers)` for each leaf, layers on the first axis."""
    found = {}
    for path, score in scores.items():
        keys = _keys(masks.by_layer(path, score), masks.by_layer(path, current[path]))
        axes = _group_axes(path, keys.ndim, by_row)
        found[path] = function(keys, axes, *(number[path] for number in numbers))
    return found


@jax.jit
def _any_nan(scores):
    return {path: jnp.isnan(score).any() for path, score in scores.items()}


@functools.partial(jax.jit, static_argnames="by_row")
def _count_pruned(current, *, by_row):
    return _each(
        lambda keys, axes: _per_group(keys == 0, axes), current, current, by_row=by_row
    )


@functools.partial(jax.jit, static_argnames="by_row")
def _count_below(scores, current, thresholds, *, by_row):
    return _each(
        lambda keys, axes, threshold: _per_group(keys < threshold, axes),
        scores,
        current,
        thresholds,
        by_row=by_row,
    )


@functools.partial(jax.jit, static_argnames="by_row")
def _count_ties(scores, current, thresholds, stops, *, by_row):
    return _each(
        lambda keys, axes, threshold, stop: _per_group(
            (keys == threshold) & (_indices(keys, axes) < stop), axes
        ),
        scores,
        current,
        thresholds,
        stops,
        by_row=by_row,
    )


@functools.cache
def _dropper(shardings):
    """The jitted last step, whose masks come out sharded as they went in."""

    def drop(scores, current, thresholds, stops, *, by_row):
        survives = _each(
            lambda keys, axes, threshold, stop: (
                (keys > threshold)
                | ((keys == threshold) & (_indices(keys, axes) >= stop) & (keys > 0))
            ),
            scores,
            current,
            thresholds,
            stops,
            by_row=by_row,
        )
        return {
            path: survives[path].reshape(mask.shape) for path, mask in current.items()
        }

    return jax.jit(drop, out_shardings=dict(shardings), static_argnames="by_row")
