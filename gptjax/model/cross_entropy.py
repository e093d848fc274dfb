"""The loss of the next token, by logits that exist a chunk of tokens at a time."""

import functools

import jax
import jax.numpy as jnp

from gptjax.model import chunked
from gptjax.model.compute import Compute


def per_token(
    x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array, *, compute: Compute
) -> tuple[jax.Array, jax.Array]:
    """Of each target the negative log-likelihood, and whether no token is likelier.

    Float32 BT, in nats, and bool BT.

    Args:
      x_BTD: what the head reads, after the final norm.
      head_VD: the head, or the embedding that it is tied to.
      targets_BT: token ids below V.
    """

    def local(x_BTD, head_VD, targets_BT):
        head_VD = chunked.gather(head_VD, x_BTD.dtype, compute)

        def one(chunk):
            x_CD, targets_C = chunk
            logits_CV = chunked.logits(x_CD, head_VD)
            picked_C = _picked(logits_CV, targets_C)
            return _nll(logits_CV, targets_C)[0], picked_C == logits_CV.max(-1)

        cut = chunked.Chunks(targets_BT.shape, len(head_VD), compute)
        found = jax.lax.map(one, (cut(x_BTD), cut(targets_BT)))
        return jax.tree.map(cut.join, found)

    tokens = chunked.tokens_spec(compute, targets_BT.shape[1])
    run = chunked.mapped(local, compute, (tokens, chunked.HEAD, tokens), tokens)
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
    nll_BT, _ = per_token(x_BTD, head_VD, targets_BT, compute=compute)
    return (weights_BT * nll_BT).sum()


def _total_and_slopes(x_BTD, head_VD, targets_BT, weights_BT, compute):
    """The sum, and its derivatives by `x_BTD` and by `head_VD`."""

    def of_logits(logits_CV, chunk, heads):
        del heads
        targets_C, weights_C = chunk
        nll_C, slope_CV = nll_and_slope(logits_CV, targets_C, weights_C)
        return (weights_C * nll_C).sum(), slope_CV

    return chunked.sum_and_slopes(
        of_logits, x_BTD, head_VD, (targets_BT, weights_BT), (), compute
    )


def _scaled_slopes(compute, slopes, cotangent):
    del compute
    return (*chunked.scaled(slopes, cotangent), None, None)


total.defvjp(_total_and_slopes, _scaled_slopes)


def _nll(
    logits_CV: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The negative log-likelihoods of targets, and what their derivatives are made of:

    e to the power of each logit less the highest, and the sum of these for each token.
    """
    highest_C = logits_CV.max(-1)
    powers_CV = jnp.exp(logits_CV - highest_C[:, None])
    sums_C = powers_CV.sum(-1)
    nll_C = highest_C + jnp.log(sums_C) - _picked(logits_CV, targets_C)
    return nll_C, powers_CV, sums_C


def _picked(logits_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]


def nll_and_slope(
    logits_CV: jax.Array, targets_C: jax.Array, weights_C: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The negative log-likelihoods, and their weighted sum's derivative by logits."""
    nll_C, powers_CV, sums_C = _nll(logits_CV, targets_C)
    # (softmax - onehot) times the weight, in one pass over the powers.
    ids_CV = jax.lax.broadcasted_iota(jnp.int32, powers_CV.shape, 1)
    slope_CV = powers_CV / sums_C[:, None] - (ids_CV == targets_C[:, None])
    return nll_C, slope_CV * weights_C[:, None]
