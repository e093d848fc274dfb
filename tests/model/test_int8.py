"""Products of 8 bits; qwix is the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from gptjax import model


def drawn(*shape):
    """Numbers of which some rows are large, some small, and one is nothing."""
    rng = np.random.default_rng(len(shape))
    sizes = 10.0 ** rng.integers(-3, 3, (*shape[:-1], 1))
    sizes.reshape(-1)[0] = 0
    return jnp.asarray(rng.normal(size=shape) * sizes, jnp.float32)


@pytest.mark.parametrize("axes", [1, 2])
def test_products_are_those_of_the_codes(axes):
    """In float64 by the formula, and by qwix, which takes codes and scales."""
    x, kernel = drawn(2, 5, 6, 8), drawn(6, 8, 3, 4)
    if axes == 1:
        x, kernel = x[:, :, 0], kernel[0]
    got = model.int8.product(x, kernel, axes)
    assert got.shape == x.shape[: x.ndim - axes] + kernel.shape[axes:]

    def coded(matrix, axis):
        largest = np.abs(matrix).max(axis, keepdims=True)
        scales = np.where(largest > 0, largest / 127, 1)
        return np.rint(matrix / scales), scales

    rows = np.asarray(x, np.float64).reshape(10, -1)
    matrix = np.asarray(kernel, np.float64).reshape(rows.shape[1], -1)
    (x_codes, x_scales), (codes, scales) = coded(rows, 1), coded(matrix, 0)
    wanted = (x_codes @ codes) * x_scales * scales
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-5)
    theirs = qwix.dot_general(
        qwix.QArray(jnp.int8(x_codes), jnp.float32(x_scales)),
        qwix.QArray(jnp.int8(codes), jnp.float32(scales)),
        (((1,), (0,)), ((), ())),
    )
    np.testing.assert_allclose(got.reshape(wanted.shape), theirs, rtol=1e-5)


def test_what_is_multiplied_has_8_bits():
    """Codes that were floats again before the product would give the same numbers."""
    x, kernel = drawn(2, 5, 16), drawn(16, 4)
    text = jax.jit(model.int8.product, static_argnums=2).lower(x, kernel, 1).as_text()
    (line,) = (each for each in text.splitlines() if "dot_general" in each)
    assert "xi8>" in line
    assert line.rstrip().endswith("xi32>")
