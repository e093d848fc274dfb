"""The activation functions that Hugging Face's `GPT2Config` may name.

All of `transformers.activations.ACT2FN` but `prelu` and `xielu`, which carry
learned parameters of their own that no GPT-2 checkpoint has a name for.
"""

import functools
import math

import jax
import jax.numpy as jnp


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _laplace(x: jax.Array) -> jax.Array:
    """Ma et al., "Mega: Moving Average Equipped Gated Attention", arXiv:2209.10655."""
    mu, sigma = 0.707107, 0.282095
    return 0.5 * (1 + jax.lax.erf((x - mu) / (sigma * math.sqrt(2.0))))


_gelu_erf = functools.partial(jax.nn.gelu, approximate=False)
_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)

ACTIVATIONS = {
    "gelu": _gelu_erf,
    "gelu_10": lambda x: jnp.clip(_gelu_erf(x), -10, 10),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu_erf,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": jax.nn.hard_swish,
    "laplace": _laplace,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.01),
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "sqrtsoftplus": lambda x: jnp.sqrt(jax.nn.softplus(x)),
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
