"""Kernels that the loss sees rounded, and that learn as if they were not."""

import dataclasses
import functools
import math
from typing import Any

import jax

from gptjax import grids, tree
from gptjax.model.adapted import KERNELS


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel"],
    meta_fields=["grid", "input_axes"],
)
@dataclasses.dataclass(frozen=True)
class Rounded:
    """A kernel in its place among a model's params, read rounded, a layer at a time.

    Its gradient is that of the rounded one: the straight-through estimator of Bengio,
    Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation", 2013, arXiv:1308.3432.
    """

    kernel: jax.Array
    grid: grids.Grid
    input_axes: int

    def value(self) -> jax.Array:
        """What one layer computes with, as its kernel; 0 where that is 0."""
        rounded = _rounded(self.kernel, self.grid, self.input_axes)
        return self.kernel + jax.lax.stop_gradient(rounded - self.kernel)


def _rounded(kernel: jax.Array, grid: grids.Grid, input_axes: int) -> jax.Array:
    matrix = kernel.reshape(-1, math.prod(kernel.shape[input_axes:]))
    values = grids.rounded(matrix, grids.scales_of(matrix, grid), grid)
    return values.reshape(kernel.shape).astype(kernel.dtype)


def on_grid(params: Any, grid: grids.Grid) -> Any:
    """Params whose blocks' kernels the blocks read rounded; nothing is computed yet.

    Raises:
      UserError: a group that does not divide the inputs of a kernel.
    """

    def wrap(path, leaf):
        axes = next((n for rule, n in KERNELS if tree.covers(rule, path)), None)
        if axes is None:
            return leaf
        grid.groups(math.prod(leaf.shape[1 : 1 + axes]), path)
        return Rounded(leaf, grid, axes)

    return tree.map_with_path(wrap, params)


def settled(params: Any) -> Any:
    """Plain params of what `on_grid` gave, rounded; they lie as they did."""

    def settle(leaf):
        if not isinstance(leaf, Rounded):
            return leaf
        return jax.device_put(_settle(leaf), leaf.kernel.sharding)

    return jax.tree.map(settle, params, is_leaf=lambda leaf: isinstance(leaf, Rounded))


@jax.jit
def _settle(leaf: Rounded) -> jax.Array:
    of = functools.partial(_rounded, grid=leaf.grid, input_axes=leaf.input_axes)
    return jax.vmap(of)(leaf.kernel)
