"""The loss of the next token, a chunk of tokens at a time.

Logits are V times as many as tokens: 50257 floats for each, and as many again for
their gradient. Here they exist for one chunk of tokens only. Where gradients are
wanted they are taken in the same turn, since the loss is a plain sum: nothing is
computed twice for it. On a mesh every device takes its own tokens, the devices of a
`tensor` group too, and gathers the head for them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from gptjax import sharding
from gptjax.model.compute import Compute

CHUNK_BYTES = 2**26
"""Of a chunk's float32 logits on one device, unless `Compute` says how many tokens."""

_HEAD_AXES = ("fsdp", "tensor")
_HEAD = P(None, _HEAD_AXES)


def per_token(
    x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array, *, compute: Compute
) -> jax.Array:
    """The negative log-likelihood of each target, float32 BT, in nats.

    Args:
      x_BTD: what the head reads, after the final norm.
      head_VD: the head, or the embedding that it is tied to.
      targets_BT: token ids below V.
    """

    def local(x_BTD, head_VD, targets_BT):
        head_VD = _gather(head_VD, x_BTD.dtype, compute)

        def one(chunk):
            x_CD, targets_C = chunk
            return _nll(_logits(x_CD, head_VD), targets_C)[0]

        cut = _Chunks(targets_BT.shape, len(head_VD), compute)
        return cut.join(jax.lax.map(one, (cut(x_BTD), cut(targets_BT))))

    tokens = _tokens_spec(compute, targets_BT.shape[1])
    run = _mapped(local, compute, (tokens, _HEAD, tokens), tokens)
    return run(x_BTD, head_VD, targets_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def total(
    x_BTD: jax.Array,
    head_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    compute: Compute,
) -> jax.Array:
    """The sum of the negative log-likelihoods of targets, each times its weight.

    Args:
      x_BTD, head_VD, targets_BT: as for `per_token`.
      weights_BT: float32; 0 where a target does not count.

    Returns:
      A float32 scalar, in nats, to be differentiated by `x_BTD` and `head_VD`.
    """
    nll_BT = per_token(x_BTD, head_VD, targets_BT, compute=compute)
    return (weights_BT * nll_BT).sum()


def _total_and_slopes(x_BTD, head_VD, targets_BT, weights_BT, compute):
    """The sum, and its derivatives by `x_BTD` and by `head_VD`."""

    def of_logits(logits_CV, chunk, heads):
        del heads
        targets_C, weights_C = chunk
        nll_C, slope_CV = _nll_and_slope(logits_CV, targets_C, weights_C)
        return (weights_C * nll_C).sum(), slope_CV

    return _sum_and_slopes(
        of_logits, x_BTD, head_VD, (targets_BT, weights_BT), (), compute
    )


def _scaled_slopes(compute, slopes, cotangent):
    del compute
    return (*_scaled(slopes, cotangent), None, None)


total.defvjp(_total_and_slopes, _scaled_slopes)


class Teacher(NamedTuple):
    """What a student is to predict as, beside the targets."""

    x_BTE: jax.Array
    """What the teacher's head reads; E is its width."""
    head_VE: jax.Array
    weights_BT: jax.Array
    """float32; 0 where its word does not count."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def distilled(
    x_BTD: jax.Array,
    head_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    teacher: Teacher,
    temperature: float,
    compute: Compute,
) -> jax.Array:
    """`total`, and t^2 KL(teacher || student) at a temperature t, weighted and summed.

    Both distributions are softmaxes of logits over t, their logarithms taken as such:
    no probability is rounded to 0 before. Hinton et al., "Distilling the Knowledge in a
    Neural Network", 2015, arXiv:1503.02531.

    Returns:
      A float32 scalar, in nats, to be differentiated by `x_BTD` and `head_VD`.
    """
    arguments = (x_BTD, head_VD, targets_BT, weights_BT, teacher)
    return _distilled_and_slopes(*arguments, temperature, compute)[0]


def _distilled_and_slopes(
    x_BTD, head_VD, targets_BT, weights_BT, teacher, temperature, compute
):
    def of_logits(logits_CV, chunk, heads):
        targets_C, weights_C, teacher_x_CE, teacher_weights_C = chunk
        nll_C, slope_CV = _nll_and_slope(logits_CV, targets_C, weights_C)
        teacher_CV = _logits(teacher_x_CE, heads[0])
        log_student_CV, log_teacher_CV = (
            jax.nn.log_softmax(x / temperature) for x in (logits_CV, teacher_CV)
        )
        chances_CV = jnp.exp(log_teacher_CV)
        kl_C = (chances_CV * (log_teacher_CV - log_student_CV)).sum(-1)
        weights_C1 = (temperature * teacher_weights_C)[:, None]
        slope_CV += weights_C1 * (jnp.exp(log_student_CV) - chances_CV)
        kl = temperature**2 * (teacher_weights_C * kl_C).sum()
        return (weights_C * nll_C).sum() + kl, slope_CV

    return _sum_and_slopes(
        of_logits,
        x_BTD,
        head_VD,
        (targets_BT, weights_BT, teacher.x_BTE, teacher.weights_BT),
        (teacher.head_VE,),
        compute,
    )


def _scaled_distilled(temperature, compute, slopes, cotangent):
    del temperature, compute
    return (*_scaled(slopes, cotangent), None, None, None)


distilled.defvjp(_distilled_and_slopes, _scaled_distilled)


def _scaled(slopes, cotangent):
    scaled = (cotangent * slope.astype(jnp.float32) for slope in slopes)
    return (s.astype(own.dtype) for s, own in zip(scaled, slopes, strict=True))


def _sum_and_slopes(of_logits, x_BTD, head_VD, tokenwise, heads, compute):
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
            _gather(each, x_BTD.dtype, compute) for each in (head_VD, *heads)
        )

        def one(chunk):
            x_CD, rest = chunk
            value, slope_CV = of_logits(_logits(x_CD, whole_VD), rest, wholes)
            slope_CV = slope_CV.astype(x_CD.dtype)
            head_slope_VD = jnp.einsum(
                "CV,CD->VD", slope_CV, x_CD, preferred_element_type=jnp.float32
            )
            return (value, head_slope_VD), jnp.einsum("CV,VD->CD", slope_CV, whole_VD)

        def add(sums, chunk):
            own, x_slope_CD = one(chunk)
            return jax.tree.map(jnp.add, sums, own), x_slope_CD

        cut = _Chunks(x_BTD.shape[:2], len(head_VD), compute)
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

    tokens = _tokens_spec(compute, shape[1])
    run = _mapped(local, compute, (tokens, _HEAD, tokens, _HEAD), (P(), tokens, _HEAD))
    value, *slopes = run(x_BTD, head_VD, tokenwise, heads)
    return value, slopes


def _logits(x_CD: jax.Array, head_VD: jax.Array) -> jax.Array:
    return jnp.einsum("CD,VD->CV", x_CD, head_VD, preferred_element_type=jnp.float32)


def _nll(
    logits_CV: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The negative log-likelihoods of targets, and what their derivatives are made of:

    e to the power of each logit less the highest, and the sum of these for each token.
    """
    highest_C = logits_CV.max(-1)
    powers_CV = jnp.exp(logits_CV - highest_C[:, None])
    sums_C = powers_CV.sum(-1)
    picked_C = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]
    return highest_C + jnp.log(sums_C) - picked_C, powers_CV, sums_C


def _nll_and_slope(
    logits_CV: jax.Array, targets_C: jax.Array, weights_C: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The negative log-likelihoods, and their weighted sum's derivative by logits."""
    nll_C, powers_CV, sums_C = _nll(logits_CV, targets_C)
    # (softmax - onehot) times the weight, in one pass over the powers.
    ids_CV = jax.lax.broadcasted_iota(jnp.int32, powers_CV.shape, 1)
    slope_CV = powers_CV / sums_C[:, None] - (ids_CV == targets_C[:, None])
    return nll_C, slope_CV * weights_C[:, None]


class _Chunks:
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


def _gather(head_VD: jax.Array, dtype: jnp.dtype, compute: Compute) -> jax.Array:
    """The whole head, from the columns that a device has of it."""
    head_VD = head_VD.astype(dtype)
    if compute.devices == 1:
        return head_VD
    return jax.lax.all_gather(head_VD, _HEAD_AXES, axis=1, tiled=True)


def _tokens_spec(compute: Compute, length: int) -> P:
    """How a batch is split, BT...: sequences, and time as finely as it divides."""
    finest = ("context", "tensor")
    divides = length % (compute.parts("context") * compute.parts("tensor")) == 0
    time = finest if divides else compute.time_axis(length)
    return P(sharding.BATCH_AXES, time)


def _mapped(function, compute, inputs, outputs):
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
