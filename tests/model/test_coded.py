"""Codes among params, and the weights that blocks make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import grids, model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("shape", "outputs", "group"),
    [((3, 8, 5), 5, 4), ((2, 7, 3, 2), 6, None), ((1, 2, 6, 4), 4, 6)],
    ids=str,
)
def test_codes_give_the_rounded_kernel_back(bits, shape, outputs, group):
    """An odd number of inputs, several axes of inputs or of outputs, groups."""
    grid = grids.Grid(bits=bits, group=group)
    kernel = jax.random.normal(jax.random.key(0), shape)
    matrix = kernel.reshape(shape[0], -1, outputs)
    scales = grids.scales_of(matrix, grid)
    wanted = grids.rounded(matrix, scales, grid).reshape(shape)
    coded = model.coded(wanted, scales, grid)
    assert coded.codes.dtype == (jnp.int8 if bits == 8 else jnp.uint8)
    assert coded.codes.shape[1] == -(-matrix.shape[1] * bits // 8)
    for layer in range(shape[0]):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], coded)
        np.testing.assert_array_equal(own.value(), wanted[layer])
