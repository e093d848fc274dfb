"""One block's weights, taken from the stacked leaves and put back in place."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import sharding


@functools.partial(jax.jit, static_argnames="mesh")
def take(blocks: Any, layer: jax.Array | int, *, mesh: Mesh) -> Any:
    """`params["blocks"]` of one layer, without the axis L."""
    block = jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), blocks
    )
    return jax.lax.with_sharding_constraint(block, places(blocks, mesh))


def put(blocks: Any, block: Any, layer: int, *, mesh: Mesh) -> Any:
    """`blocks`, donated, with one layer exchanged in their own memory.

    A leaf at a time: where one cannot be donated (it may be memory of NumPy's), no
    more than that leaf is copied.
    """
    whole = sharding.param_shardings(mesh, {"blocks": blocks})["blocks"]
    return jax.tree.map(
        lambda leaf, own, place: _put(leaf, own, layer, place=place),
        blocks,
        block,
        whole,
    )


@functools.partial(jax.jit, static_argnames="place", donate_argnums=0)
def _put(leaf, own, layer, *, place):
    new = jax.lax.dynamic_update_index_in_dim(leaf, own, layer, 0)
    return jax.lax.with_sharding_constraint(new, place)


def places(blocks: Any, mesh: Mesh) -> Any:
    """The shardings of what `take` gives: those of the leaves, without their axis L."""
    whole = sharding.param_shardings(mesh, {"blocks": blocks})["blocks"]
    return jax.tree.map(
        lambda place: NamedSharding(mesh, PartitionSpec(*place.spec[1:])), whole
    )
