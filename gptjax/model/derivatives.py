"""Operations with their derivatives written out.

The numbers are those of automatic differentiation, but for rounding. Its programs take
more passes over memory, and put products in an order that XLA's CPU compiler copies
their operands for.
"""

import functools

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

KEPT = "kept"
"""What `jax.checkpoint` policies know results by that derivatives read again: those of
attention, and statistics, which are small."""


def keep(x: jax.Array) -> jax.Array:
    """The same, marked as `KEPT`."""
    return ad_checkpoint.checkpoint_name(x, KEPT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, kernel: jax.Array, axes: int, is_whole: bool) -> jax.Array:
    """Sums over the last `axes` of x and the first `axes` of the kernel.

    Args:
      is_whole: whether one device holds all of x, whose other axes can be merged then.
    """
    return _product(x, kernel, axes, is_whole)[0]


def _product(x, kernel, axes, is_whole):
    # A product itself, not a call of one, is what policies of `jax.checkpoint` see.
    del is_whole
    inputs = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    return jax.lax.dot_general(x, kernel, (inputs, ((), ()))), (x, kernel)


def _product_slopes(axes, is_whole, operands, slope):
    x, kernel = operands
    outputs = (
        tuple(range(x.ndim - axes, slope.ndim)),
        tuple(range(axes, kernel.ndim)),
    )
    x_slope = jax.lax.dot_general(slope, kernel, (outputs, ((), ())))
    if is_whole:
        # XLA transposes an operand that it is to sum over several axes of.
        x = x.reshape(-1, *kernel.shape[:axes])
        slope = slope.reshape(-1, *kernel.shape[axes:])
    others = tuple(range(x.ndim - axes))
    kernel_slope = jax.lax.dot_general(x, slope, ((others, others), ((), ())))
    return x_slope, kernel_slope


product.defvjp(_product, _product_slopes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float
) -> jax.Array:
    """Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Over the last axis of x, in float32, with the two-pass variance of torch.
    """
    return _layer_norm(x, scale_D, bias_D, epsilon)[0]


def _layer_norm(x, scale_D, bias_D, epsilon):
    centred = x.astype(jnp.float32)
    mean = keep(centred.mean(-1, keepdims=True))
    centred = centred - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    inverse = keep(jax.lax.rsqrt(variance + epsilon))
    result = centred * inverse * _over(scale_D, x) + _over(bias_D, x)
    return result.astype(x.dtype), (x, scale_D, mean, inverse)


def _layer_norm_slopes(epsilon, kept, slope):
    del epsilon
    x, scale_D, mean, inverse = kept
    slope = slope.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    inner = slope * _over(scale_D, x)
    along = (inner * normal).mean(-1, keepdims=True)
    x_slope = inverse * (inner - inner.mean(-1, keepdims=True) - normal * along)
    others = tuple(range(x.ndim - 1))
    return (
        x_slope.astype(x.dtype),
        (slope * normal).sum(others).astype(scale_D.dtype),
        slope.sum(others).astype(scale_D.dtype),
    )


def _over(weights_D, x):
    """As many axes as `x` has."""
    return weights_D.reshape((1,) * (x.ndim - 1) + weights_D.shape)


layer_norm.defvjp(_layer_norm, _layer_norm_slopes)
