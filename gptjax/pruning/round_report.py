"""The figures of one round, as they stand in its `report.json`."""

import math
from typing import Any

import numpy as np

from gptjax import masks, model, tree

BYTES_PER_WEIGHT = 4
"""Of a float32 value, dense or packed."""
SAVED = ("prunable", "zeros", "parameters", "bytes_dense", "bytes_packed")
"""What of a round's figures the account of savings repeats."""


def sizes(params_shapes: Any, weight_masks: masks.Masks) -> dict[str, Any]:
    """Sparsity and bytes of a model under masks.

    Args:
      params_shapes: a tree of arrays or shapes.

    Returns:
      sparsity: fraction of the prunable weights that are pruned.
      model_sparsity: of all weights.
      sparsity_per_layer, zeros_per_layer: slash path -> a fraction, and a count, for
        each layer.
      prunable, zeros, parameters: counts of weights.
      bytes_dense: every weight as float32.
      bytes_packed: what a bit mask of the prunable weights and the float32 values
        that are left would take; weights that cannot be pruned count in full.
    """
    alive = masks.survivors(weight_masks)
    total = masks.layer_sizes(weight_masks)
    prunable = sum(int(size.sum()) for size in total.values())
    zeros = prunable - sum(int(count.sum()) for count in alive.values())
    parameters = sum(math.prod(s.shape) for s in tree.flatten(params_shapes).values())
    mask_bytes = sum(-(-int(size.sum()) // 8) for size in total.values())
    return {
        "sparsity": zeros / prunable if prunable else 0.0,
        "model_sparsity": zeros / parameters,
        "sparsity_per_layer": {
            path: np.round(1 - alive[path] / total[path], 6).tolist() for path in total
        },
        "zeros_per_layer": {p: (total[p] - alive[p]).tolist() for p in total},
        "prunable": prunable,
        "zeros": zeros,
        "parameters": parameters,
        "bytes_dense": BYTES_PER_WEIGHT * parameters,
        "bytes_packed": BYTES_PER_WEIGHT * (parameters - zeros)
        + (mask_bytes if zeros else 0),
    }


def shape(config: model.Config) -> dict[str, int]:
    """What removal changes of a model, and the number of its weights."""
    leaves = tree.flatten(model.shapes(config)).values()
    return {
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": config.n_head,
        "head_width": config.head_width,
        "neurons": config.mlp_width,
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
    }
