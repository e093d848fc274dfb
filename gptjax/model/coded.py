"""Kernels that are stored as codes, and become weights a layer at a time."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from gptjax import grids


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scales"],
    meta_fields=["bits", "shape"],
)
@dataclasses.dataclass(frozen=True)
class Coded:
    """A kernel in its place among a model's params, whose scan slices it like any leaf.

    Attributes:
      codes: int8 (L, inputs, outputs), or of 4 bits uint8 (L, inputs / 2 rounded up,
        outputs), q + 8 of one input in the low half and of the next in the high half.
      scales: float32 (L, groups, outputs).
      bits: of a code, 4 or 8.
      shape: of one layer's kernel, inputs first.
    """

    codes: jax.Array
    scales: jax.Array
    bits: int
    shape: tuple[int, ...]

    def value(self) -> jax.Array:
        """What one layer's codes stand for, float32 in its shape."""
        codes = self.codes
        if self.bits == 4:
            halves = jnp.stack([codes & 15, codes >> 4], axis=-2).astype(jnp.int8)
            count = math.prod(self.shape) // codes.shape[-1]
            codes = halves.reshape(-1, codes.shape[-1])[:count] - 8
        return grids.values_of(codes, self.scales).reshape(self.shape)


def coded(kernel: jax.Array, scales: jax.Array, grid: grids.Grid) -> Coded:
    """A stacked kernel that lies on a grid, as its codes.

    Args:
      kernel: with the leading L, inputs before outputs.
      scales: (L, groups, outputs).
    """
    layers, outputs = kernel.shape[0], scales.shape[-1]
    matrix = kernel.reshape(layers, -1, outputs)
    codes = grids.codes_of(matrix, scales, grid)
    if grid.bits == 4:
        odd = codes.shape[1] % 2
        own = (jnp.pad(codes, ((0, 0), (0, odd), (0, 0))) + 8).astype(jnp.uint8)
        codes = own[:, ::2] | own[:, 1::2] << 4
    return Coded(codes, scales, grid.bits, kernel.shape[1:])
