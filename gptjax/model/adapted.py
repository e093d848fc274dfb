"""Low-rank adapters upon frozen weights, whose zeros they keep.

An adapter's leaves lie beside the kernel that they change, `lora_a` and `lora_b`, in
PEFT's orientation: R x inputs, and outputs x R. Any other of its leaves takes the place
of the model's.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import tree

A, B = "lora_a", "lora_b"

KERNELS: tree.Rules = (
    (r"blocks/(attn/qkv|mlp/(up|gate|down))/kernel", 1),
    (r"blocks/attn/out/kernel", 2),
)
"""What can have an adapter, and how many of a layer's axes are inputs."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "a", "b"],
    meta_fields=["scaling"],
)
@dataclasses.dataclass(frozen=True)
class Adapted:
    """A kernel and what is added to it, in its place among a model's params.

    The layers' scan slices it like any leaf, so that the sum, and its gradient, exist
    for one layer at a time.
    """

    kernel: jax.Array
    a: jax.Array
    b: jax.Array
    scaling: float

    def value(self) -> jax.Array:
        """W + scaling B A where W is not 0, and 0 where it is; of one layer, as W.

        The kernel is frozen: its zeros are its mask.
        """
        # Policies of `jax.checkpoint` keep products without a batch axis: this one is
        # as large as the kernel, and cheap.
        change = jax.lax.dot_general(
            self.a.astype(jnp.float32)[None],
            self.b.astype(jnp.float32)[None],
            (((1,), (self.b.ndim,)), ((0,), (0,))),
            precision=jax.lax.Precision.HIGHEST,
        )[0]
        sum_ = self.kernel.astype(jnp.float32) + self.scaling * change
        sum_ = sum_.astype(self.kernel.dtype)
        # A sum of exactly 0 would pass for one more pruned weight.
        smallest = jnp.finfo(self.kernel.dtype).tiny
        sum_ = jnp.where(sum_ == 0, smallest, sum_)
        return jnp.where(self.kernel == 0, self.kernel, sum_)


def _is_adapted(leaf: Any) -> bool:
    return isinstance(leaf, Adapted)


def adapt(params: Any, adapter: Any, *, scaling: float) -> Any:
    """Params with an adapter on top, for `hidden` and `merged`; nothing is computed."""
    flat, own = tree.flatten(params), tree.flatten(adapter)
    for path, leaf in own.items():
        parent, _, name = path.rpartition("/")
        if name == A:
            kernel = f"{parent}/kernel"
            flat[kernel] = Adapted(flat[kernel], leaf, own[f"{parent}/{B}"], scaling)
        elif name != B:
            flat[path] = leaf
    return tree.unflatten(flat)


def merged(params: Any) -> Any:
    """Plain params of what `adapt` gave. Leaves without an adapter are the same arrays.

    A merged kernel lies as it did.
    """

    def merge(leaf):
        if not _is_adapted(leaf):
            return leaf
        return jax.device_put(_merge(leaf), leaf.kernel.sharding)

    return jax.tree.map(merge, params, is_leaf=_is_adapted)


@jax.jit
def _merge(leaf: Adapted) -> jax.Array:
    return jax.vmap(Adapted.value)(leaf)


def adapter_shapes(kernels: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The leaves of an adapter by slash path, as `jax.ShapeDtypeStruct` of float32.

    Args:
      kernels: those that it changes, arrays or shapes, by slash path; see `KERNELS`.
    """
    shapes = {}
    for path, leaf in kernels.items():
        layers, *axes = leaf.shape
        parent = path.removesuffix("/kernel")
        taken = next(count for rule, count in KERNELS if tree.covers(rule, path))
        for name, shape in (
            (A, (layers, rank, *axes[:taken])),
            (B, (layers, *axes[taken:], rank)),
        ):
            shapes[f"{parent}/{name}"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return shapes


def inputs_of(leaf: Any) -> int:
    """How many numbers enter a layer's kernel, by its adapter's `lora_a`."""
    return math.prod(leaf.shape[2:])
