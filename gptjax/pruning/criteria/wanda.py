"""Wanda: a weight's size times how large its input tends to be."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import tree
from gptjax.pruning import matrices


def scores(weights: Any, norms: Mapping[str, jax.Array | np.ndarray]) -> Any:
    """|W_ij| ||X_i||_2, where X_i is input i over all calibration tokens.

    Compared within an output (`scope: row`), where it tells by how much the output
    would change without the weight.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
    2023, arXiv:2306.11695.

    Args:
      weights: a tree like params, of any number of layers.
      norms: slash path -> (L, inputs), for each leaf that is to be scored.

    Returns:
      A tree like `weights` of float32 scores, without the leaves that have no norms.
    """
    flat = tree.flatten(weights)
    return tree.unflatten(
        {path: _score(path, flat[path], norms[path]) for path in norms}
    )


def _score(path: str, leaf: jax.Array, norms: jax.Array | np.ndarray) -> jax.Array:
    sizes = jnp.abs(matrices.view(path, leaf).astype(jnp.float32))
    return (sizes * jnp.asarray(norms, jnp.float32)[:, :, None]).reshape(leaf.shape)
