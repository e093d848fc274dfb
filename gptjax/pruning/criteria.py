"""Scores: one number a weight, and the lowest are pruned first."""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax import tree


def magnitude(params: Any) -> Any:
    """|w|.

    Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", 2015, arXiv:1506.02626.

    Returns:
      A tree like `params` of float32 scores.
    """
    return jax.tree.map(lambda w: jnp.abs(w.astype(jnp.float32)), params)


def random(params: Any, key: jax.Array) -> Any:
    """Uniform numbers: the control that every other criterion has to beat.

    Returns:
      A tree like `params` of float32 scores in [0, 1).
    """
    flat = tree.flatten(params)
    keys = dict(zip(flat, jax.random.split(key, len(flat)), strict=True))
    return tree.map_with_path(
        lambda path, w: jax.random.uniform(keys[path], w.shape), params
    )
