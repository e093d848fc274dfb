"""Which tokens may be drawn, and how likely: temperature, top-k, top-p.

Each filter does exactly what its namesake in Hugging Face's
`transformers.generation.logits_process` does, at ties and at boundaries too.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gptjax import errors


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "cut_mass"],
    meta_fields=["top_k"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `make` checks the values that users give.

    Only `top_k` and whether there is a `cut_mass` are static under `jax.jit`, so that
    trying out temperatures compiles nothing.
    """

    temperature: float
    """What logits are divided by."""
    top_k: int | None
    """Only the k likeliest tokens are drawn, and those as likely as the k-th."""
    cut_mass: float | None
    """1 - top_p: the least likely tokens, up to this probability together, are not
    drawn (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019,
    arXiv:1904.09751)."""

    @classmethod
    def make(
        cls, *, temperature: float, top_k: int | None, top_p: float | None
    ) -> "Sampling":
        """Settings as users give them.

        Raises:
          UserError: a temperature that is not positive, a `top_k` below 1, a `top_p`
            outside (0, 1].
        """
        if not 0 < temperature < float("inf"):
            raise errors.UserError(
                f"temperature {temperature}: it must be positive; for the likeliest "
                "token every time, decode greedily"
            )
        if top_k is not None and top_k < 1:
            raise errors.UserError(f"top_k {top_k}: it must be at least 1")
        if top_p is not None and not 0 < top_p <= 1:
            raise errors.UserError(f"top_p {top_p}: it must be above 0 and at most 1")
        # Subtracted here, in double precision, as torch does it: which tokens lie on
        # the boundary can hang on it.
        cut_mass = None if top_p is None or top_p == 1 else 1 - top_p
        return cls(temperature=float(temperature), top_k=top_k, cut_mass=cut_mass)


def filter_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits to draw from: divided by the temperature, -inf where cut.

    The filters work in Hugging Face's order: temperature, top-k, top-p, each on what
    the one before it left.
    """
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None:
        k = min(sampling.top_k, logits_BV.shape[-1])
        kth_B1 = jax.lax.top_k(logits_BV, k)[0][..., -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    if sampling.cut_mass is not None:
        logits_BV = _cut_least_likely(logits_BV, sampling.cut_mass)
    return logits_BV


def _cut_least_likely(logits_BV, mass):
    """-inf for the least likely tokens that have at most `mass` together.

    Of equally likely ones those of lower index go first; one token always stays.

    The logit of the likeliest token to go is found by bisection over the integers
    that order like floats: XLA's sort takes ten times as long on CPU.
    """
    # Zeros of both signs are one number, but not one pattern of bits.
    bits_BV = jax.lax.bitcast_convert_type(
        jnp.where(logits_BV == 0, 0.0, logits_BV), jnp.int32
    )
    order_BV = jnp.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)
    probs_BV = jax.nn.softmax(logits_BV)

    def mass_where(chosen_BV):
        return probs_BV.sum(-1, where=chosen_BV, keepdims=True)

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        # The mean, rounded down, without the overflow of a sum.
        middle_B1 = (low_B1 & high_B1) + ((low_B1 ^ high_B1) >> 1)
        is_too_much_B1 = mass_where(order_BV <= middle_B1) > mass
        return (
            jnp.where(is_too_much_B1, low_B1, middle_B1 + 1),
            jnp.where(is_too_much_B1, middle_B1, high_B1),
        )

    extremes = order_BV.min(-1, keepdims=True), order_BV.max(-1, keepdims=True)
    _, boundary_B1 = jax.lax.fori_loop(0, 32, halve, extremes)
    is_below_BV = order_BV < boundary_B1
    is_tie_BV = order_BV == boundary_B1
    rank_BV = jnp.cumsum(is_tie_BV, axis=-1)
    fits_BV = mass_where(is_below_BV) + rank_BV * probs_BV <= mass
    is_cut_BV = is_below_BV | (is_tie_BV & fits_BV & (rank_BV < rank_BV[:, -1:]))
    return jnp.where(is_cut_BV, -jnp.inf, logits_BV)
