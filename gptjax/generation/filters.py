"""Which tokens may be drawn: each filter says -inf of the others.

Each does exactly what its namesake in Hugging Face's
`transformers.generation.logits_process` does, at ties and at boundaries too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def top_k(scores_BV: jax.Array, k: int) -> jax.Array:
    """The k likeliest stay, and those as likely as the k-th."""
    return _cut(scores_BV, scores_BV < _highest(scores_BV, k))


def top_k_each(scores_BV: jax.Array, k_B1: jax.Array) -> jax.Array:
    """`top_k` with a k of each row, from 1 on, that compiles nothing anew."""
    order_BV = _ordered(scores_BV)

    def count_up_to(at_B1):
        return (order_BV <= at_B1).sum(-1, keepdims=True)

    # More than all but k lie at or below the k-th.
    lower_B1 = jnp.maximum(scores_BV.shape[-1] - k_B1, 0)
    return _cut(scores_BV, order_BV < _least(order_BV, count_up_to, lower_B1))


def top_p(scores_BV: jax.Array, cut_mass: jax.Array, keep: int) -> jax.Array:
    """The least likely that have at most `cut_mass` together go, but for `keep`.

    Of equally likely ones those of lower index go first.

    The score of the likeliest token to go is found by bisection over the integers
    that order like floats: XLA's sort takes ten times as long on CPU.
    """
    order_BV = _ordered(scores_BV)
    probs_BV = jax.nn.softmax(scores_BV)

    def mass_where(chosen_BV):
        return probs_BV.sum(-1, where=chosen_BV, keepdims=True)

    def mass_up_to(at_B1):
        return mass_where(order_BV <= at_B1)

    boundary_B1 = _least(order_BV, mass_up_to, cut_mass)
    is_below_BV = order_BV < boundary_B1
    is_tie_BV = order_BV == boundary_B1
    rank_BV = jnp.cumsum(is_tie_BV, axis=-1)
    fits_BV = mass_where(is_below_BV) + rank_BV * probs_BV <= cut_mass
    is_cut_BV = is_below_BV | (is_tie_BV & fits_BV & (rank_BV < rank_BV[:, -1:]))
    if keep > 1:
        is_cut_BV &= scores_BV < _highest(scores_BV, keep)
    return _cut(scores_BV, is_cut_BV)


def top_h(scores_BV: jax.Array, fraction: jax.Array) -> jax.Array:
    """Of the 100 likeliest those stay that have a part of their entropy together."""
    highest_BJ, ids_BJ = jax.lax.top_k(scores_BV, min(100, scores_BV.shape[-1]))
    log_probs_BJ = jax.nn.log_softmax(highest_BJ)
    terms_BJ = -jnp.exp(log_probs_BJ) * log_probs_BJ
    # A token of no chance adds nothing, where 0 times infinity is no number.
    terms_BJ = jnp.where(jnp.isfinite(log_probs_BJ), terms_BJ, 0)
    most_B1 = fraction * terms_BJ.sum(-1, keepdims=True)
    stays_BJ = (jnp.cumsum(terms_BJ, -1) <= most_B1).at[:, 0].set(True)
    rows_B1 = jnp.arange(len(scores_BV))[:, None]
    stays_BV = jnp.zeros(scores_BV.shape, bool).at[rows_B1, ids_BJ].set(stays_BJ)
    return _cut(scores_BV, ~stays_BV)


def min_p(scores_BV: jax.Array, fraction: jax.Array, keep: int) -> jax.Array:
    """Those at least that fraction as likely as the likeliest stay, and `keep`."""
    probs_BV = jax.nn.softmax(scores_BV)
    least_B1 = fraction * probs_BV.max(-1, keepdims=True)
    return _cut(
        scores_BV, (probs_BV < least_B1) & (scores_BV < _highest(scores_BV, keep))
    )


def typical(scores_BV: jax.Array, mass: jax.Array, keep: int) -> jax.Array:
    """Those nearest to the entropy stay that have `mass`, and the first `keep`."""
    log_probs_BV = jax.nn.log_softmax(scores_BV)
    probs_BV = jnp.exp(log_probs_BV)
    terms_BV = jnp.where(jnp.isfinite(log_probs_BV), log_probs_BV * probs_BV, 0)
    far_BV = jnp.abs(-log_probs_BV + terms_BV.sum(-1, keepdims=True))
    order_BV = _ordered(far_BV)

    def mass_up_to(at_B1):
        return probs_BV.sum(-1, where=order_BV <= at_B1, keepdims=True)

    # The nearest at which the mass is reached: bisection stops above what lies below.
    below = jnp.nextafter(jnp.float32(mass), jnp.float32(0))
    last_B1 = _least(order_BV, mass_up_to, below)
    stays_BV = order_BV <= last_B1
    if keep > 1:
        stays_BV |= -far_BV >= _highest(-far_BV, keep)
    return _cut(scores_BV, ~stays_BV)


def epsilon(scores_BV: jax.Array, least: jax.Array, keep: int) -> jax.Array:
    """Those at least that likely stay, and the `keep` likeliest."""
    is_less_BV = jax.nn.softmax(scores_BV) < least
    return _cut(scores_BV, is_less_BV & (scores_BV < _highest(scores_BV, keep)))


def eta(scores_BV: jax.Array, least: jax.Array, keep: int) -> jax.Array:
    """The same, but less than `least` is enough where the entropy is high."""
    log_probs_BV = jax.nn.log_softmax(scores_BV)
    terms_BV = jnp.where(
        jnp.isfinite(log_probs_BV), log_probs_BV * jnp.exp(log_probs_BV), 0
    )
    entropy_B1 = -terms_BV.sum(-1, keepdims=True)
    least_B1 = jnp.minimum(least, jnp.sqrt(least) * jnp.exp(-entropy_B1))
    return epsilon(scores_BV, least_B1, keep)


def _cut(scores_BV: jax.Array, is_cut_BV: jax.Array) -> jax.Array:
    return jnp.where(is_cut_BV, -jnp.inf, scores_BV)


def _highest(scores_BV: jax.Array, k: int) -> jax.Array:
    """The k-th highest, B1."""
    if k == 1:
        return scores_BV.max(-1, keepdims=True)
    return jax.lax.top_k(scores_BV, min(k, scores_BV.shape[-1]))[0][..., -1:]


def _ordered(x_BV: jax.Array) -> jax.Array:
    """Integers that order as floats do."""
    # Zeros of both signs are one number, but not one pattern of bits.
    bits_BV = jax.lax.bitcast_convert_type(jnp.where(x_BV == 0, 0.0, x_BV), jnp.int32)
    return jnp.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)


def _least(
    order_BV: jax.Array, mass_up_to: Callable[[jax.Array], jax.Array], mass: jax.Array
) -> jax.Array:
    """The smallest integer, B1, up to which there is more than `mass`."""

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        # The mean, rounded down, without the overflow of a sum.
        middle_B1 = (low_B1 & high_B1) + ((low_B1 ^ high_B1) >> 1)
        is_too_much_B1 = mass_up_to(middle_B1) > mass
        return (
            jnp.where(is_too_much_B1, low_B1, middle_B1 + 1),
            jnp.where(is_too_much_B1, middle_B1, high_B1),
        )

    extremes = order_BV.min(-1, keepdims=True), order_BV.max(-1, keepdims=True)
    return jax.lax.fori_loop(0, 32, halve, extremes)[1]
