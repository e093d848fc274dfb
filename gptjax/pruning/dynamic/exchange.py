"""Exchange of survivors: some go, as many come back, each layer keeps its count."""

from typing import Any

import jax
import numpy as np

from gptjax import masks, tree
from gptjax.pruning import ranking


def counts(weight_masks: masks.Masks, fraction: float) -> ranking.PerLayer:
    """A fraction of the survivors of each layer of each leaf, rounded down."""
    return {
        path: np.floor(fraction * alive).astype(np.int64)
        for path, alive in masks.survivors(weight_masks).items()
    }


def exchange(
    current: masks.Masks, numbers: ranking.PerLayer, *, drop: Any, grow: Any
) -> masks.Masks:
    """Masks with as many survivors in each layer as `current` has.

    First the survivors with the lowest `drop` scores go, then of all that do not
    survive those with the lowest `grow` scores come: a weight that has just gone may
    come back, and has then not changed at all. Ties break by index. Nothing is sorted
    or gathered: to grow is to prune the complement.

    Args:
      numbers: how many are exchanged, for each layer of each leaf.
      drop, grow: trees like params of float32.

    Raises:
      UserError: a NaN score.
    """
    sizes, alive = masks.layer_sizes(current), masks.survivors(current)
    gone = {path: sizes[path] - alive[path] + numbers[path] for path in sizes}
    absent = _complement(ranking.prune_counts(drop, current, gone))
    # What stayed counts as pruned from the complement already.
    return _complement(ranking.prune_counts(grow, absent, alive))


def _complement(weight_masks: masks.Masks) -> masks.Masks:
    def invert(path, mask):
        del path
        # A sharding written otherwise would be the same place, but compile anew.
        return jax.device_put(~mask, mask.sharding) if masks.is_prunable(mask) else mask

    return tree.map_with_path(invert, weight_masks)
