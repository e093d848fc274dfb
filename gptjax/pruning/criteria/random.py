"""Random numbers: the control that every other criterion has to beat."""

import functools
from typing import Any

import jax

from gptjax import tree


def scores(params: Any, key: jax.Array) -> Any:
    """Uniform numbers, independent for each weight.

    Args:
      params: a tree of arrays or shapes.

    Returns:
      A tree like `params` of float32 scores in [0, 1), lying as they do.
    """
    flat = tree.flatten(params)
    keys = dict(zip(flat, jax.random.split(key, len(flat)), strict=True))
    return tree.map_with_path(
        lambda path, w: _uniform(
            keys[path], shape=w.shape, place=getattr(w, "sharding", None)
        ),
        params,
    )


@functools.partial(jax.jit, static_argnames=("shape", "place"))
def _uniform(key, *, shape, place):
    numbers = jax.random.uniform(key, shape)
    if place is None:
        return numbers
    # Made where they lie: a whole tree of them may fit no single device.
    return jax.lax.with_sharding_constraint(numbers, place)
