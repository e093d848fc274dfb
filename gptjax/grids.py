"""Integer grids for weights: whole numbers, and scales that inputs of an output share.

A weight w is stored as a code q, -largest <= q <= largest, and stands for q s, with a
scale s > 0. The grid is symmetric and has a 0, so that pruned weights stay exactly 0.
Weights are matrices (inputs, outputs); scales are (groups, outputs), a group being so
many inputs in a row, or all of them.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors

BITS = (4, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """How fine a grid is, and what shares a scale."""

    bits: int
    """4 or 8, of a code."""
    group: int | None = None
    """How many inputs share a scale; None: all of an output's."""

    def __post_init__(self):
        if self.bits not in BITS:
            raise errors.UserError(f"bits: {self.bits}; codes have 4 or 8")
        if self.group is not None and self.group < 1:
            raise errors.UserError(f"group: {self.group}; it takes at least 1 input")

    @property
    def largest(self) -> int:
        """The largest code: 7 or 127."""
        return 2 ** (self.bits - 1) - 1

    def groups(self, inputs: int, path: str) -> int:
        """How many groups there are.

        Args:
          path: what the weight is called in errors.

        Raises:
          UserError: the inputs are no multiple of a group.
        """
        if self.group is None:
            return 1
        if inputs % self.group:
            raise errors.UserError(
                f"group: {self.group} does not divide the {inputs} inputs of {path}"
            )
        return inputs // self.group


@dataclasses.dataclass(frozen=True)
class OnGrid:
    """Which leaves of a model's params lie on a grid."""

    grid: Grid
    scales: Mapping[str, np.ndarray]
    """Slash path of a stacked kernel -> (L, groups, outputs) in float32."""


def scales_of(weights: jax.Array, grid: Grid) -> jax.Array:
    """The smallest scales that reach all weights, (..., groups, outputs) in float32.

    A group of zeros has the scale 1.

    Args:
      weights: (..., inputs, outputs).
    """
    *rest, inputs, outputs = weights.shape
    groups = 1 if grid.group is None else inputs // grid.group
    grouped = jnp.abs(weights.astype(jnp.float32)).reshape(*rest, groups, -1, outputs)
    scales = grouped.max(-2) / grid.largest
    return jnp.where(scales > 0, scales, 1.0)


def codes_of(weights: jax.Array, scales: jax.Array, grid: Grid) -> jax.Array:
    """The codes nearest to weights, int8 like them; halves go to the even one."""
    codes = jnp.round(weights.astype(jnp.float32) / spread(scales, weights.shape[-2]))
    return jnp.clip(codes, -grid.largest, grid.largest).astype(jnp.int8)


def values_of(codes: jax.Array, scales: jax.Array) -> jax.Array:
    """What codes stand for, float32 like them."""
    return codes.astype(jnp.float32) * spread(scales, codes.shape[-2])


def rounded(weights: jax.Array, scales: jax.Array, grid: Grid) -> jax.Array:
    """The weights nearest to some that codes can stand for."""
    return values_of(codes_of(weights, scales, grid), scales)


def spread(scales: jax.Array, inputs: int) -> jax.Array:
    """The scale of each of the inputs, (..., inputs, outputs)."""
    return jnp.repeat(scales, inputs // scales.shape[-2], axis=-2)
