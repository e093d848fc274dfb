"""Random numbers: the control that every other criterion has to beat."""

from typing import Any

import jax

from gptjax import tree


def scores(params: Any, key: jax.Array) -> Any:
    """Uniform numbers, independent for each weight.

    Args:
      params: a tree of arrays or shapes.

    Returns:
      A tree like `params` of float32 scores in [0, 1).
    """
    flat = tree.flatten(params)
    keys = dict(zip(flat, jax.random.split(key, len(flat)), strict=True))
    return tree.map_with_path(
        lambda path, w: jax.random.uniform(keys[path], w.shape), params
    )
