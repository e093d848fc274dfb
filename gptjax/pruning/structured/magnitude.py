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
    """(L, H): the same of a head's queries, keys, values and output rows."""
    return _group_norms(params, surgery.HEADS)


def _group_norms(params: Any, axes: Mapping[str, int]) -> np.ndarray:
    flat = tree.flatten(params)
    squares = _squares({path: flat[path] for path in axes}, tuple(axes.items()))
    return np.sqrt(np.asarray(sharding.to_host(squares), np.float64))


@functools.partial(jax.jit, static_argnames="axes")
def _squares(leaves, axes):
    """The sums of squares of the leaves, over all axes but L and the given one."""
    total = 0.0
    for path, axis in axes:
        leaf = leaves[path].astype(jnp.float32)
        others = tuple(a for a in range(1, leaf.ndim) if a != axis)
        total += jnp.square(leaf).sum(others)
    return total
