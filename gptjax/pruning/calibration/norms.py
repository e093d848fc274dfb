"""The norms of every kernel's inputs in the dense model, in one pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import model, sharding, tree
from gptjax.pruning.calibration import activations, stacked

KERNELS = (
    "attn/out/kernel",
    "attn/qkv/kernel",
    "mlp/down/kernel",
    "mlp/gate/kernel",
    "mlp/up/kernel",
)
"""Of a block, whose inputs can be watched, as far as it has them."""


def input_norms(
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    *,
    mesh: Mesh,
    batch_sequences: int,
    dtype: Any = jnp.float32,
) -> dict[str, np.ndarray]:
    """||X_i||_2 of every input over all calibration tokens.

    Holds one block's activations, as pruning block by block does.

    Args:
      params: placed; not donated.
      tokens_NT: sequences, as `windows.cut` gives.
      dtype: of the computation; sums are float32.

    Returns:
      Slash path of a kernel -> (L, inputs) in float32.

    Raises:
      UserError: sequences that the model cannot read.
    """
    activations.check(config, tokens_NT)
    how = activations.How(config, dtype, mesh)
    stream = activations.Stream(how, params, tokens_NT, batch_sequences=batch_sequences)
    present = [n for n in KERNELS if n in tree.flatten(params["blocks"])]
    norms: dict[str, list[np.ndarray]] = {name: [] for name in present}
    stack = stacked.Stack(params["blocks"], mesh)
    for layer in range(config.n_layer):
        block = stack.block(layer)
        means = stream.moments(block, layer, present, activations.squares)
        for name, mean in means.items():
            norms[name].append(from_mean_squares(mean, tokens_NT.size))
        stream.advance(block, layer)
    return {f"blocks/{name}": np.stack(rows) for name, rows in norms.items()}


def from_mean_squares(mean: jax.Array, tokens: int) -> np.ndarray:
    """The norms over so many tokens, on the host."""
    return np.sqrt(sharding.to_host(mean) * np.float32(tokens))
