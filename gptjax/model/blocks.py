"""The model a block at a time, for what watches or changes one block after another."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gptjax.model import attention, gpt
from gptjax.model.compute import Compute
from gptjax.model.config import Config


def embed(
    config: Config, params: gpt.Params, tokens_BT: jax.Array, *, compute: Compute
) -> jax.Array:
    """What enters the first block, BTD; no dropout."""
    trunk = gpt.trunk(config, params, compute)
    positions_BT = jnp.arange(tokens_BT.shape[1])[None]
    return compute.split_residual(trunk.embed_tokens(tokens_BT, positions_BT))


def apply_block(
    config: Config,
    block_params: gpt.Params,
    x_BTD: jax.Array,
    *,
    layer: jax.Array | int,
    compute: Compute,
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
    attend = attention.make(config, compute, length=x_BTD.shape[1])
    _, block_def = gpt.graphdefs(config, compute)
    inputs: dict[str, jax.Array] = {}

    def tap(name, x):
        inputs[name] = x
        return x if gates is None or name not in gates else x * gates[name]

    block = gpt.merge(block_def, block_params)
    x_BTD = block(x_BTD, lambda q, k, v: attend(q, k, v, layer, None), tap=tap)
    return compute.split_residual(x_BTD), inputs
