"""The blocks' stacked weights, of which one layer is taken out or exchanged."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import sharding, tree


class Stack:
    """The leaves of `params["blocks"]`, changed in their own memory.

    There is never a second copy of a leaf: who hands the leaves over must not use
    them any more once one was exchanged.
    """

    def __init__(self, blocks: Any, mesh: Mesh):
        self._leaves = tree.flatten(blocks)
        whole = sharding.param_shardings(mesh, {"blocks": blocks})["blocks"]
        self._places = tree.flatten(whole)

    def tree(self) -> Any:
        """`params["blocks"]` as they are now."""
        return tree.unflatten(self._leaves)

    def block(self, layer: int) -> Any:
        """The weights of one layer, without the axis L."""
        return tree.unflatten(self._take(self._leaves, layer))

    def leaf(self, name: str, layer: int) -> jax.Array:
        """One of them, by its slash path within the block."""
        return self._take({name: self._leaves[name]}, layer)[name]

    def put(self, layer: int, leaves: Mapping[str, jax.Array]) -> None:
        """Exchanges some of a layer's weights.

        Where a leaf cannot be donated (it may be memory of NumPy's), it is copied
        once, and no other meanwhile.
        """
        for name, own in leaves.items():
            place = self._places[name]
            self._leaves[name] = _put(self._leaves[name], own, layer, place=place)

    def _take(self, leaves, layer):
        places = tuple((name, self._places[name]) for name in leaves)
        return _taker(places)(leaves, layer)


@functools.cache
def _taker(places):
    """The jitted slice, whose leaves lie as their stacks do, without the axis L."""
    without_layers = {
        name: NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
        for name, place in places
    }

    def take(leaves, layer):
        return {
            name: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
            for name, leaf in leaves.items()
        }

    return jax.jit(take, out_shardings=without_layers)


@functools.partial(jax.jit, static_argnames="place", donate_argnums=0)
def _put(leaf, own, layer, *, place):
    new = jax.lax.dynamic_update_index_in_dim(leaf, own, layer, 0)
    return jax.lax.with_sharding_constraint(new, place)
