"""The model a block at a time, for what watches or changes one block after another."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.model import gpt, layers
from gptjax.model.config import Config


def embed(
    config: Config, params: gpt.Params, tokens_BT: jax.Array, *, dtype: Any
) -> jax.Array:
    """What enters the first block, BTD; no dropout."""
    trunk_def, _ = gpt.graphdefs(config, dtype)
    trunk = gpt.merge(trunk_def, gpt.split_params(params)[0])
    return trunk.embed_tokens(tokens_BT, jnp.arange(tokens_BT.shape[1])[None])


def apply_block(
    config: Config,
    block_params: gpt.Params,
    x_BTD: jax.Array,
    *,
    layer: jax.Array | int,
    dtype: Any,
    gates: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block on whole sequences, without dropout, and what its kernels read.

    Args:
      block_params: `params["blocks"]` without its leading axis L.
      layer: the block's number, on which the attention's scale may depend.
      gates: what the activations that enter a kernel are multiplied by, by the
        kernel's slash path within the block; of a shape that broadcasts to theirs.

    Returns:
      What leaves the block, BTD, and the activations that enter each kernel, by its
      slash path within the block: `attn/qkv/kernel` and `mlp/up/kernel` BTD,
      `attn/out/kernel` BTHK, `mlp/down/kernel` BTF; before the gates. What is not
      used of them is never computed under `jax.jit`.
    """
    length = x_BTD.shape[1]
    attend = functools.partial(
        layers.attention,
        mask_BTS=jnp.tril(jnp.ones((length, length), bool))[None],
        scale=gpt.attention_scale(config, layer),
        upcast=config.reorder_and_upcast_attn,
        drop=lambda x: x,
    )
    _, block_def = gpt.graphdefs(config, dtype)
    inputs: dict[str, jax.Array] = {}

    def tap(name, x):
        inputs[name] = x
        return x if gates is None or name not in gates else x * gates[name]

    block = gpt.merge(block_def, block_params)
    return block(x_BTD, attend, tap=tap), inputs


def logits(
    config: Config, params: gpt.Params, x_BTD: jax.Array, *, dtype: Any
) -> jax.Array:
    """The scores of the next token, BTV in float32, of what left the last block."""
    trunk_def, _ = gpt.graphdefs(config, dtype)
    trunk = gpt.merge(trunk_def, gpt.split_params(params)[0])
    return trunk.logits(x_BTD)
