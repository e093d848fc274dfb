"""Magnitude: the weight's own size."""

from typing import Any

import jax
import jax.numpy as jnp


def scores(params: Any) -> Any:
    """|w|.

    Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", 2015, arXiv:1506.02626.

    Returns:
      A tree like `params` of float32 scores.
    """
    return jax.tree.map(lambda w: jnp.abs(w.astype(jnp.float32)), params)
