"""Scores from what the model does: layers by influence, parts by activation.

Neurons, heads and channels: Muralidharan et al., "Compact Language Models via Pruning
and Knowledge Distillation", 2024, arXiv:2407.14679, with the aggregation that they
recommend, the mean over a sequence and the L2 norm over sequences: for an amount
a[s, t] >= 0 of a part, at token t of sequence s,

    score = sqrt(sum_s (mean_t a[s, t])^2).

The lowest go first. Each function takes the arguments of `reading.watch` but for
`of_block`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.pruning.structured import reading


def influence(
    config: model.Config, params: Any, tokens_NT: np.ndarray, **reading_options: Any
) -> np.ndarray:
    """How much each block changes what passes through it, (L,).

    BI = 1 - mean over tokens of cos(x, y), of the residual stream x before the block
    and y after it. Men et al., "ShortGPT: Layers in Large Language Models are More
    Redundant Than You Expect", 2024, arXiv:2403.03853.
    """
    total = reading.watch(config, params, tokens_NT, _similarity, **reading_options)
    return 1 - total / len(tokens_NT)


def neurons(
    config: model.Config, params: Any, tokens_NT: np.ndarray, **reading_options: Any
) -> np.ndarray:
    """Of each MLP neuron, (L, F): a = |h|, h what the down projection reads of it.

    After the nonlinearity, which the paper's formula leaves out: what a GELU turns
    to 0 is not missed.
    """
    total = reading.watch(config, params, tokens_NT, _neurons, **reading_options)
    return np.sqrt(total)


def heads(
    config: model.Config, params: Any, tokens_NT: np.ndarray, **reading_options: Any
) -> np.ndarray:
    """Of each head of keys, (L, G): a = the L2 norm of what its queries gathered."""
    of_block = _heads(config.kv_heads)
    total = reading.watch(config, params, tokens_NT, of_block, **reading_options)
    return np.sqrt(total)


def width(
    config: model.Config, params: Any, tokens_NT: np.ndarray, **reading_options: Any
) -> np.ndarray:
    """Of each channel of the residual stream, (D,).

    a = |LayerNorm(x)|, for both LayerNorms of every block; their scores are added.
    """
    total = reading.watch(config, params, tokens_NT, _width, **reading_options)
    return np.sqrt(total).sum((0, 1))


def _similarity(x_BTD, y_BTD, inputs):
    del inputs
    dot_BT = (x_BTD * y_BTD).sum(-1)
    norms_BT = jnp.linalg.norm(x_BTD, axis=-1) * jnp.linalg.norm(y_BTD, axis=-1)
    # A stream of zeros resembles nothing.
    return (dot_BT / jnp.maximum(norms_BT, jnp.finfo(jnp.float32).tiny)).mean(1)


def _neurons(x_BTD, y_BTD, inputs):
    del x_BTD, y_BTD
    return _squared_mean(jnp.abs(inputs["mlp/down/kernel"]))


@functools.cache
def _heads(groups: int) -> reading.Watch:
    def of_block(x_BTD, y_BTD, inputs):
        del x_BTD, y_BTD
        gathered_BTHK = inputs["attn/out/kernel"]
        gathered_BTGX = gathered_BTHK.reshape(*gathered_BTHK.shape[:2], groups, -1)
        return _squared_mean(jnp.linalg.norm(gathered_BTGX, axis=-1))

    return of_block


def _width(x_BTD, y_BTD, inputs):
    del x_BTD, y_BTD
    norms = (inputs["attn/qkv/kernel"], inputs["mlp/up/kernel"])
    return jnp.stack([_squared_mean(jnp.abs(x)) for x in norms], axis=1)


def _squared_mean(amount_BTX: jax.Array) -> jax.Array:
    return jnp.square(amount_BTX.mean(1))
