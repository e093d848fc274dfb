"""Dropout whose bits cost next to nothing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scaled(NamedTuple):
    """A key for dropout at other rates than the model's, which a schedule moves."""

    key: jax.Array
    scale: jax.Array
    """What the rates are multiplied by, a float32 scalar; no rate may reach 1."""


Key = jax.Array | Scaled
Scale = jax.Array | None


def apply(rate: float, x: jax.Array, key: Key | None) -> jax.Array:
    """`x` with entries dropped at `rate`, the others grown by 1 / (1 - rate).

    Which entries fall is a hash of their index and of two words of the key. JAX's own
    generator would take a quarter of a training step on CPU, since attention asks for
    a bit for every pair of tokens; the hash is cheap enough to be computed again in
    the backward pass, so that no mask is kept. It does not depend on the mesh.

    The hash is `lowbias32` of Wellons, "Prospecting for Hash Functions", 2018, with
    the second word mixed in halfway. It repeats after 2**32 entries.

    Args:
      rate: between 0 and 1.
      key: None: `x` itself.
    """
    if key is None or rate == 0:
        return x
    if isinstance(key, Scaled):
        # An argument of the program, and not a part of it: no step compiles anew.
        key, rate = key.key, rate * key.scale
        least = jnp.asarray(rate * 2.0**32, jnp.uint32)
        kept = (1 / (1 - rate)).astype(x.dtype)
    elif rate == 1:
        return jnp.zeros_like(x)
    else:
        least, kept = jnp.uint32(round(rate * 2**32)), None
    words = jax.random.bits(key, (2,), jnp.uint32)
    h = _index(x.shape) ^ words[0]
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15) ^ words[1]) * jnp.uint32(0x846CA68B)
    h = h ^ (h >> 16)
    grown = x / (1 - rate) if kept is None else x * jnp.broadcast_to(kept, x.shape)
    return jnp.where(h >= least, grown, 0)


def split(key: Key) -> tuple[jax.Array, Scale]:
    """Two keys, and what their rates are multiplied by; None: by nothing."""
    if isinstance(key, Scaled):
        return jax.random.split(key.key), key.scale
    return jax.random.split(key), None


def scaled(key: jax.Array | None, scale: Scale) -> Key | None:
    """A key whose rates are multiplied by `scale`, if there is one."""
    return key if key is None or scale is None else Scaled(key, scale)


def _index(shape: tuple[int, ...]) -> jax.Array:
    """The number of each entry in row-major order, uint32."""
    # From the axes' own coordinates and not a reshaped arange, which a partitioner
    # would make whole on every device.
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, shape, axis
        )
    return index
