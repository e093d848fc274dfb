"""How far a student's scores of the next token are from a teacher's.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
Distributions are softmaxes of logits over a temperature t, their logarithms taken as
such: no probability is rounded to 0 before. Logits exist a chunk of tokens at a time.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax.model import chunked
from gptjax.model.compute import Compute
from gptjax.model.cross_entropy import nll_and_slope


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) in nats, over the last axis of logarithms of two distributions.

    What p has no part in adds nothing, even where both logarithms are without end.
    """
    p = jnp.exp(log_p)
    return jnp.where(p > 0, p * (log_p - log_q), 0).sum(-1)


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
    """`cross_entropy.total`, and t^2 KL(teacher || student), weighted and summed.

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
        nll_C, slope_CV = nll_and_slope(logits_CV, targets_C, weights_C)
        teacher_CV = chunked.logits(teacher_x_CE, heads[0])
        log_student_CV, log_teacher_CV = (
            jax.nn.log_softmax(x / temperature) for x in (logits_CV, teacher_CV)
        )
        kl_C = divergence(log_teacher_CV, log_student_CV)
        weights_C1 = (temperature * teacher_weights_C)[:, None]
        slope_CV += weights_C1 * (jnp.exp(log_student_CV) - jnp.exp(log_teacher_CV))
        kl = temperature**2 * (teacher_weights_C * kl_C).sum()
        return (weights_C * nll_C).sum() + kl, slope_CV

    return chunked.sum_and_slopes(
        of_logits,
        x_BTD,
        head_VD,
        (targets_BT, weights_BT, teacher.x_BTE, teacher.weights_BT),
        (teacher.head_VE,),
        compute,
    )


def _scaled(temperature, compute, slopes, cotangent):
    del temperature, compute
    return (*chunked.scaled(slopes, cotangent), None, None, None)


distilled.defvjp(_distilled_and_slopes, _scaled)


class Remembered(NamedTuple):
    """What is kept of a teacher's scores, at the temperature that they are used at."""

    ids_BTJ: jax.Array
    """Every token's J likeliest words, of any integer dtype; no two alike."""
    log_chances_BTR: jax.Array
    """The logarithms of their chances, of any floating dtype, and as the last one that
    of all other words together. The chances add up to 1 but for rounding."""
    weights_BT: jax.Array
    """float32; 0 where its word does not count."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def recalled(
    x_BTD: jax.Array,
    head_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    remembered: Remembered,
    temperature: float,
    compute: Compute,
) -> jax.Array:
    """`distilled`, by what is remembered of the teacher.

        t^2 (sum over the J words of p_j (log p_j - log q_j) + p_r (log p_r - log q_r))

    p are the teacher's chances and q the student's, both at the temperature; p_r and
    q_r are those of all other words together. So this is a divergence too, of coarser
    distributions: never below 0, never above the whole one, and equal to it where J is
    the whole vocabulary. Its slope by a logit is t (q_v - p_v), where a word that is
    not remembered has its share of p_r as the student deals it out, p_r q_v / q_r.

    Returns:
      A float32 scalar, in nats, to be differentiated by `x_BTD` and `head_VD`.
    """
    arguments = (x_BTD, head_VD, targets_BT, weights_BT, remembered)
    return _recalled_and_slopes(*arguments, temperature, compute)[0]


def _recalled_and_slopes(
    x_BTD, head_VD, targets_BT, weights_BT, remembered, temperature, compute
):
    def of_logits(logits_CV, chunk, heads):
        del heads
        targets_C, weights_C, (ids_CJ, log_p_CR, teacher_weights_C) = chunk
        nll_C, slope_CV = nll_and_slope(logits_CV, targets_C, weights_C)
        ids_CJ = ids_CJ.astype(jnp.int32)
        places = (jnp.arange(len(ids_CJ))[:, None], ids_CJ)
        # As it was stored its sum is 1 but for rounding; then it is 1.
        log_p_CR = jax.nn.log_softmax(log_p_CR.astype(jnp.float32))
        scaled_CV = logits_CV / temperature
        others_CV = scaled_CV.at[places].set(-jnp.inf)
        highest_C1 = others_CV.max(-1, keepdims=True)
        # There may be no others.
        highest_C1 = jnp.where(jnp.isfinite(highest_C1), highest_C1, 0)
        powers_CV = jnp.exp(others_CV - highest_C1)
        sums_C1 = powers_CV.sum(-1, keepdims=True)
        rest_C1 = highest_C1 + jnp.log(sums_C1)
        known_CJ = jnp.take_along_axis(scaled_CV, ids_CJ, axis=-1)
        log_q_CR = jax.nn.log_softmax(jnp.concatenate([known_CJ, rest_C1], -1))
        kl_C = divergence(log_p_CR, log_q_CR)
        weights_C1 = (temperature * teacher_weights_C)[:, None]
        away_CR = weights_C1 * (jnp.exp(log_q_CR) - jnp.exp(log_p_CR))
        # What the others are off together they share as the student deals it out.
        share_C1 = away_CR[:, -1:] / jnp.where(sums_C1 > 0, sums_C1, 1)
        slope_CV = (slope_CV + share_C1 * powers_CV).at[places].add(away_CR[:, :-1])
        kl = temperature**2 * (teacher_weights_C * kl_C).sum()
        return (weights_C * nll_C).sum() + kl, slope_CV

    tokenwise = (targets_BT, weights_BT, tuple(remembered))
    return chunked.sum_and_slopes(of_logits, x_BTD, head_VD, tokenwise, (), compute)


recalled.defvjp(_recalled_and_slopes, _scaled)


def likeliest(
    x_BTD: jax.Array,
    head_VD: jax.Array,
    *,
    count: int,
    temperature: float,
    compute: Compute,
) -> tuple[jax.Array, jax.Array]:
    """The ids and the logarithms of chances that `Remembered` is made of.

    Args:
      x_BTD, head_VD: of the teacher.
      count: J, at most V.

    Returns:
      int32 BTJ, the likeliest first, and float32 BTR. The rest is summed up, and not
      what the others leave of 1: it is as exact as they are.
    """

    def local(x_BTD, head_VD):
        head_VD = chunked.gather(head_VD, x_BTD.dtype, compute)

        def one(x_CD):
            logits_CV = chunked.logits(x_CD, head_VD)
            log_p_CV = jax.nn.log_softmax(logits_CV / temperature)
            log_p_CJ, ids_CJ = jax.lax.top_k(log_p_CV, count)
            places = (jnp.arange(len(ids_CJ))[:, None], ids_CJ)
            others_CV = log_p_CV.at[places].set(-jnp.inf)
            rest_C1 = jax.nn.logsumexp(others_CV, -1, keepdims=True)
            return ids_CJ, jnp.concatenate([log_p_CJ, rest_C1], -1)

        cut = chunked.Chunks(x_BTD.shape[:2], len(head_VD), compute)
        ids, log_chances = jax.lax.map(one, cut(x_BTD))
        return cut.join(ids, count), cut.join(log_chances, count + 1)

    tokens = chunked.tokens_spec(compute, x_BTD.shape[1])
    run = chunked.mapped(local, compute, (tokens, chunked.HEAD), (tokens, tokens))
    return run(x_BTD, head_VD)
