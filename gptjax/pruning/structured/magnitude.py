"""Scores of neurons and heads from their weights alone: no text is read."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import sharding, tree
from gptjax.pruning.structured import surgery


def neurons(params: Any) -> np.ndarray:
    """(L, F): the L2 norm of all that would go with a neuron.

    Its column of the up projection with its bias, and its row of the down projection:
    the group of weights of Fang et al., "DepGraph: Towards Any Structural Pruning",
    2023, arXiv:2301.12900.
    """
    return _group_norms(params, surgery.NEURONS)


def heads(params: Any) -> np.ndarray:
    """(L, G): the same of a head's keys, values, and all queries and output rows that
    go with them."""
    return _group_norms(params, surgery.HEADS)


def _group_norms(params: Any, axes: Mapping[str, int]) -> np.ndarray:
    flat = tree.flatten(params)
    present = {path: axis for path, axis in axes.items() if path in flat}
    leaves = {path: flat[path] for path in present}
    # Heads of queries that share keys follow each other: they are one.
    parts = min(leaf.shape[present[path]] for path, leaf in leaves.items())
    squares = _squares(leaves, tuple(present.items()), parts)
    return np.sqrt(np.asarray(sharding.to_host(squares), np.float64))


@functools.partial(jax.jit, static_argnames=("axes", "parts"))
def _squares(leaves, axes, parts):
    """The sums of squares of the leaves, over all axes but L and the given one."""
    total = 0.0
    for path, axis in axes:
        leaf = leaves[path].astype(jnp.float32)
        others = tuple(a for a in range(1, leaf.ndim) if a != axis)
        squares_LX = jnp.square(leaf).sum(others)
        total += squares_LX.reshape(len(leaf), parts, -1).sum(-1)
    return total
