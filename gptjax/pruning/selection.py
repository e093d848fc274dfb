"""Which weights go, given scores: unstructured, N:M, or in tiles."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors, masks, tree
from gptjax.pruning import matrices, ranking


def select(
    scores: Any,
    current: masks.Masks,
    *,
    pattern: str,
    scope: str,
    sparsities: ranking.PerLayer | float,
) -> masks.Masks:
    """Masks nested in `current` that drop the lowest scores in a pattern.

    Ties break by index, the lower index is dropped; what is pruned stays pruned.

    Args:
      scores: a tree like params of float32.
      current: the masks so far; trees with any number of layers will do.
      pattern, scope: as in `config.Pruning`. N:M groups are M consecutive inputs of
        one output (Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural
        Networks From Scratch", 2021, arXiv:2102.04010), of which N survive at most.
        Tiles of R inputs and C outputs are ranked by the sum of their scores.
      sparsities: for scope "global" one number; else one for each layer of each leaf.
        N:M takes none from here.

    Raises:
      UserError: a pattern that does not divide a leaf, a NaN score, a sparsity below
        that of `current`.
    """
    check(pattern, current)
    if ":" in pattern:
        keep, of = map(int, pattern.split(":"))
        return _n_of_m(scores, current, keep=keep, of=of)
    if "x" in pattern:
        tile = tuple(map(int, pattern.split("x")))
        alive, sums = _tiles(scores, current, tile)
        chosen = _unstructured(sums, alive, scope, sparsities)
        return _untile(chosen, current, tile)
    return _unstructured(scores, current, scope, sparsities)


def check(pattern: str, weight_masks: masks.Masks) -> None:
    """Raises a `UserError` unless a pattern divides every prunable leaf.

    Args:
      weight_masks: masks or their shapes.
    """
    for path, mask in tree.flatten(weight_masks).items():
        if not masks.is_prunable(mask):
            continue
        _, inputs, outputs = matrices.shape(path, mask.shape)
        parts = {}
        if ":" in pattern:
            parts = {"inputs": (inputs, int(pattern.split(":")[1]))}
        elif "x" in pattern:
            rows, columns = map(int, pattern.split("x"))
            parts = {"inputs": (inputs, rows), "outputs": (outputs, columns)}
        for what, (size, part) in parts.items():
            if size % part:
                raise errors.UserError(
                    f"pruning.pattern: {pattern} does not divide {path}: {size} {what} "
                    f"are no multiple of {part}"
                )


def _unstructured(scores, current, scope, sparsities) -> masks.Masks:
    if isinstance(sparsities, Mapping):
        prune = ranking.prune_rows if scope == "row" else ranking.prune_layers
        return prune(scores, current, sparsities)
    return ranking.prune_to(scores, current, sparsity=sparsities, scope=scope)


def _prunable(current: masks.Masks) -> dict[str, jax.Array]:
    return {
        path: mask
        for path, mask in tree.flatten(current).items()
        if masks.is_prunable(mask)
    }


def _n_of_m(scores: Any, current: masks.Masks, *, keep: int, of: int) -> masks.Masks:
    prunable, flat = _prunable(current), tree.flatten(scores)
    places = tuple((path, mask.sharding) for path, mask in prunable.items())
    wanted = {path: flat[path] for path in prunable}
    ranking.check_ordered(wanted)
    new = _n_of_m_chooser(places, keep, of)(wanted, prunable)
    return tree.unflatten({**tree.flatten(current), **new})


@functools.cache
def _n_of_m_chooser(places, keep: int, of: int):
    def choose_leaf(path, score, mask):
        layers, inputs, outputs = matrices.shape(path, mask.shape)
        grouped = (layers, inputs // of, of, outputs)
        alive = mask.reshape(grouped)
        # Pruned weights come first, then the lowest; argsort is stable.
        score = jnp.where(alive, score.astype(jnp.float32).reshape(grouped), -jnp.inf)
        ranks = jnp.argsort(jnp.argsort(score, axis=2), axis=2)
        return (alive & (ranks >= of - keep)).reshape(mask.shape)

    def choose(scores, current):
        return {p: choose_leaf(p, scores[p], mask) for p, mask in current.items()}

    return jax.jit(choose, out_shardings=dict(places))


def _tiles(
    scores: Any, current: masks.Masks, tile: tuple[int, int]
) -> tuple[masks.Masks, Any]:
    """The tiles that hold a surviving weight, and the sums of their scores.

    Trees like `current` whose prunable leaves have one entry a tile.
    """
    prunable, flat = _prunable(current), tree.flatten(scores)
    alive, sums = _tile_sums({path: flat[path] for path in prunable}, prunable, tile)
    rest = dict.fromkeys(tree.flatten(current), np.True_)
    return tree.unflatten({**rest, **alive}), tree.unflatten({**rest, **sums})


@functools.partial(jax.jit, static_argnames="tile")
def _tile_sums(scores, current, tile):
    alive, sums = {}, {}
    for path, mask in current.items():
        layers, inputs, outputs = matrices.shape(path, mask.shape)
        rows, columns = tile
        cut = (layers, inputs // rows, rows, outputs // columns, columns)
        cut_mask = mask.reshape(cut)
        score = jnp.where(cut_mask, scores[path].astype(jnp.float32).reshape(cut), 0)
        tiles = (layers, inputs // rows, outputs // columns)
        own = tiles if masks.is_stacked(path) else tiles[1:]
        alive[path] = cut_mask.any((2, 4)).reshape(own)
        sums[path] = score.sum((2, 4)).reshape(own)
    return alive, sums


def _untile(chosen: masks.Masks, current: masks.Masks, tile) -> masks.Masks:
    prunable, flat = _prunable(current), tree.flatten(chosen)
    places = tuple((path, mask.sharding) for path, mask in prunable.items())
    new = _untiler(places, tile)({path: flat[path] for path in prunable}, prunable)
    return tree.unflatten({**tree.flatten(current), **new})


@functools.cache
def _untiler(places, tile):
    def spread(chosen, current):
        new = {}
        for path, mask in current.items():
            tiles = masks.by_layer(path, chosen[path])
            whole = jnp.repeat(jnp.repeat(tiles, tile[0], axis=1), tile[1], axis=2)
            new[path] = mask & whole.reshape(mask.shape)
        return new

    return jax.jit(spread, out_shardings=dict(places))
