"""How a model knows the places of its tokens: a table, rotation, or a bias.

What a config says of them, and what attention makes of it. Places of a packed sequence
count within each document.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """A table with an embedding for each place, added to that of the token."""

    offset: int = 0
    """How many rows come before that of the first place. No text reads them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """Slower rotation, for texts longer than those that a model had learnt from."""

    factor: float
    """What frequencies are divided by."""
    low: float | None = None
    """Those that turn less often than this over `learnt_positions` are divided whole;
    None: all are."""
    high: float | None = None
    """Those that turn more often than this stay; between the two lies a ramp."""
    learnt_positions: int | None = None

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        """Frequencies in radians a place, float32, as Llama 3.1 slows them."""
        slow = frequencies / np.float32(self.factor)
        if self.low is None:
            return slow
        turns = self.learnt_positions * frequencies / (2 * np.pi)
        ramp = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return ((1 - ramp) * slow + ramp * frequencies).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys are rotated by angles that grow with the place.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
    arXiv:2104.09864.
    """

    dims: int
    """How many of a head's numbers are rotated: its first, in pairs."""
    theta: float = 10000.0
    """Pair i of n turns by theta^(-i/n) radians a place."""
    is_interleaved: bool = False
    """Whether neighbours are a pair, and not a number of the first half with the one
    of the second."""
    scaling: Scaling | None = None

    def __post_init__(self):
        if self.dims < 2 or self.dims % 2:
            raise errors.UserError(
                f"{self.dims} numbers of a head are rotated; they must be pairs"
            )

    def rotated(self, x_BHTK: jax.Array, places_BT: jax.Array) -> jax.Array:
        """Queries or keys as they stand at their places."""
        exponents = np.arange(0, self.dims, 2, dtype=np.float32) / self.dims
        frequencies = (1 / np.float32(self.theta) ** exponents).astype(np.float32)
        if self.scaling is not None:
            frequencies = self.scaling.scaled(frequencies)
        angles_BTP = places_BT.astype(jnp.float32)[..., None] * frequencies[None, None]
        # Angles of float32: at the thousandth place bfloat16 knows no odd number.
        cos_BHTP, sin_BHTP = (
            jnp.broadcast_to(
                of(angles_BTP)[:, None], (*x_BHTK.shape[:3], self.dims // 2)
            )
            for of in (jnp.cos, jnp.sin)
        )
        turned, rest = x_BHTK[..., : self.dims], x_BHTK[..., self.dims :]
        if self.is_interleaved:
            one, two = turned[..., ::2], turned[..., 1::2]
        else:
            one, two = jnp.split(turned, 2, axis=-1)
        pair = (one * cos_BHTP - two * sin_BHTP, two * cos_BHTP + one * sin_BHTP)
        if self.is_interleaved:
            turned = jnp.stack(pair, axis=-1).reshape(turned.shape)
        else:
            turned = jnp.concatenate(pair, axis=-1)
        return jnp.concatenate([turned.astype(x_BHTK.dtype), rest], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alibi:
    """Attention scores fall with the distance, for each head at its own rate.

    Press, Smith and Lewis, "Train Short, Test Long: Attention with Linear Biases
    Enables Input Length Extrapolation", 2021, arXiv:2108.12409.
    """

    def slopes(self, heads: int) -> np.ndarray:
        """By how much the score of a head falls for each place, float32 H.

        2^(-8 i / n) for the heads i = 1 to n where n is a power of two; other numbers
        of heads take those of the power below, and then every other one of the power
        above.
        """
        below = 2 ** math.floor(math.log2(heads))
        own = 2.0 ** (-8 / below * np.arange(1, below + 1))
        above = 2.0 ** (-4 / below * np.arange(1, 2 * below + 1, 2))
        return np.concatenate([own, above])[:heads].astype(np.float32)


Positions = Learned | Rotary | Alibi


def rotated(positions: Positions, x_BHTK: jax.Array, places_BT: jax.Array) -> jax.Array:
    """Queries or keys, rotated where the model does so."""
    if isinstance(positions, Rotary):
        return positions.rotated(x_BHTK, places_BT)
    return x_BHTK


def slopes(positions: Positions, heads: int) -> np.ndarray | None:
    """Of `Alibi`, H; None elsewhere."""
    return positions.slopes(heads) if isinstance(positions, Alibi) else None
