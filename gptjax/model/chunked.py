"""Logits a chunk of tokens at a time, and what is summed up from them.

Logits are V times as many as tokens: 50257 floats for each, and as many again for
their gradient. Here they exist for one chunk of tokens only. Where gradients are
wanted they are taken in the same turn, since a loss is a plain sum over tokens: nothing
is computed twice for it. On a mesh every device takes its own tokens, the devices of a
`tensor` group too, and gathers the head for them.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from gptjax import sharding
from gptjax.model.compute import Compute

CHUNK_BYTES = 2**26
"""Of a chunk's float32 logits on one device, unless `Compute` says how many tokens."""

_HEAD_AXES = ("fsdp", "tensor")
HEAD = P(None, _HEAD_AXES)
"""How a head lies, VD."""


def scaled(slopes, cotangent):
    """Derivatives times that of what the sum goes into, in float32 meanwhile."""
    scaled = (cotangent * slope.astype(jnp.float32) for slope in slopes)
    return (s.astype(own.dtype) for s, own in zip(scaled, slopes, strict=True))


def sum_and_slopes(of_logits, x_BTD, head_VD, tokenwise, heads, compute):
    """A sum over tokens of what `of_logits` makes of logits, and its derivatives.

    Args:
      of_logits: of the logits of a chunk, CV, its part of `tokenwise`, and whole
        `heads`, gives the chunk's sum and its derivative by the logits, float32.
      tokenwise: arrays BT and BT... .
      heads: further arrays that lie as `head_VD` does.

    Returns:
      The sum, and its derivatives by `x_BTD` and by `head_VD`.
    """
    shape = x_BTD.shape[:2]

    def local(x_BTD, head_VD, tokenwise, heads):
        whole_VD, *wholes = (
            gather(each, x_BTD.dtype, compute) for each in (head_VD, *heads)
        )

        def one(chunk):
            x_CD, rest = chunk
            value, slope_CV = of_logits(logits(x_CD, whole_VD), rest, wholes)
            slope_CV = slope_CV.astype(x_CD.dtype)
            head_slope_VD = jnp.einsum(
                "CV,CD->VD", slope_CV, x_CD, preferred_element_type=jnp.float32
            )
            return (value, head_slope_VD), jnp.einsum("CV,VD->CD", slope_CV, whole_VD)

        def add(sums, chunk):
            own, x_slope_CD = one(chunk)
            return jax.tree.map(jnp.add, sums, own), x_slope_CD

        cut = Chunks(x_BTD.shape[:2], len(head_VD), compute)
        chunks = (cut(x_BTD), jax.tree.map(cut, tokenwise))
        if cut.count == 1:
            # As most runs have it: no zeros of the head's size to start from.
            sums, x_slopes_NCD = one(jax.tree.map(lambda x: x[0], chunks))
        else:
            zeros = (jnp.float32(0), jnp.zeros(whole_VD.shape, jnp.float32))
            sums, x_slopes_NCD = jax.lax.scan(add, zeros, chunks)
        value, head_slope_VD = sums
        if compute.devices > 1:
            value = jax.lax.psum(value, compute.mesh.axis_names)
            # Scattered first: what the other axes then sum is a part of it.
            head_slope_VD = jax.lax.psum_scatter(
                head_slope_VD, _HEAD_AXES, scatter_dimension=1, tiled=True
            )
            head_slope_VD = jax.lax.psum(head_slope_VD, ("data", "context"))
        return (
            value,
            cut.join(x_slopes_NCD, x_BTD.shape[-1]),
            head_slope_VD.astype(head_VD.dtype),
        )

    tokens = tokens_spec(compute, shape[1])
    run = mapped(local, compute, (tokens, HEAD, tokens, HEAD), (P(), tokens, HEAD))
    value, *slopes = run(x_BTD, head_VD, tokenwise, heads)
    return value, slopes


def logits(x_CD: jax.Array, head_VD: jax.Array) -> jax.Array:
    """The logits of a chunk, float32 CV."""
    return jnp.einsum("CD,VD->CV", x_CD, head_VD, preferred_element_type=jnp.float32)


class Chunks:
    """Cuts arrays of a device's tokens, BT..., into NC...; 0 fills the last up."""

    def __init__(self, shape: tuple[int, int], vocabulary: int, compute: Compute):
        self.shape, self.tokens = shape, math.prod(shape)
        most = compute.loss_chunk_tokens or max(1, CHUNK_BYTES // (4 * vocabulary))
        # Of even sizes, so that little is filled up.
        self.count = -(-self.tokens // most)
        self.size = -(-self.tokens // self.count)

    def __call__(self, x: jax.Array) -> jax.Array:
        rest = x.shape[2:]
        fill = [(0, self.count * self.size - self.tokens)] + [(0, 0)] * len(rest)
        flat = jnp.pad(x.reshape(self.tokens, *rest), fill)
        return flat.reshape(self.count, self.size, *rest)

    def join(self, x: jax.Array, *rest: int) -> jax.Array:
        """The reverse; `rest` are the axes after those of the tokens."""
        return x.reshape(-1, *rest)[: self.tokens].reshape(*self.shape, *rest)


def gather(head_VD: jax.Array, dtype: jnp.dtype, compute: Compute) -> jax.Array:
    """The whole head, from the columns that a device has of it."""
    head_VD = head_VD.astype(dtype)
    if compute.devices == 1:
        return head_VD
    return jax.lax.all_gather(head_VD, _HEAD_AXES, axis=1, tiled=True)


def tokens_spec(compute: Compute, length: int) -> P:
    """How a batch is split, BT...: sequences, and time as finely as it divides."""
    finest = ("context", "tensor")
    divides = length % (compute.parts("context") * compute.parts("tensor")) == 0
    time = finest if divides else compute.time_axis(length)
    return P(sharding.BATCH_AXES, time)


def mapped(function, compute, inputs, outputs):
    """`function` on each device's part; on everything without a mesh."""
    if compute.devices == 1:
        return function
    # Without the check of what varies: all collectives are written out here.
    return jax.shard_map(
        function,
        mesh=compute.mesh,
        in_specs=inputs,
        out_specs=outputs,
        check_vma=False,
    )
