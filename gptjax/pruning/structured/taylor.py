"""Scores of neurons and heads from the loss: first-order Taylor, by gates.

Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019,
arXiv:1906.10771: with a gate z = 1 on the activations a of a part, the loss changes by
about dL/dz when the part goes, since dL/dz = sum over tokens of a * dL/da (and over
the width of a head). Per sequence s, with the mean loss L_s of its tokens,

    score = mean_s (dL_s / dz)^2.

The gates of all sequences of a batch are variables of their own, so that one backward
pass gives the derivatives of each; activations are recomputed in it block by block.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import model, sharding
from gptjax.pruning.structured import reading
from gptjax.training import loss as loss_lib

# What is gated: the kernel that reads the activations, how many parts a layer has,
# and the axes that the gates (B, parts) lack.
_GATED = {
    "neurons": ("mlp/down/kernel", "mlp_width", (1,)),
    "heads": ("attn/out/kernel", "kv_heads", (1, 3)),
}


def scores(
    what: str,
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    *,
    batch_sequences: int,
    mesh: Mesh,
) -> np.ndarray:
    """(L, F) of `neurons` or (L, G) of `heads`, float64; the lowest go first.

    Args:
      params: float32, on the mesh.
    """
    total: Any = 0.0
    for tokens_BT, weights_B in reading.batches(
        tokens_NT, batch_sequences=batch_sequences, mesh=mesh
    ):
        found = _squared_gradients(config, params, tokens_BT, weights_B, what, mesh)
        total = total + np.asarray(found, np.float64)
    return total / len(tokens_NT)


@functools.partial(jax.jit, static_argnames=("config", "what", "mesh"))
def _squared_gradients(config, params, tokens_BT, weights_B, what, mesh):
    """The sum over the sequences of a batch, (L, parts)."""
    compute = model.Compute(mesh=mesh)
    kernel, size, missing_axes = _GATED[what]
    labels_BT = jnp.where(weights_B[:, None] > 0, tokens_BT, loss_lib.IGNORED)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(x_BTD, per_layer):
        block, layer, gates_BX = per_layer
        if what == "heads":
            gates_BX = jnp.repeat(gates_BX, config.queries, axis=1)
        y_BTD, _ = model.apply_block(
            config,
            block,
            x_BTD,
            layer=layer,
            compute=compute,
            gates={kernel: jnp.expand_dims(gates_BX, missing_axes)},
        )
        return y_BTD, None

    def loss(gates_LBX):
        x_BTD = model.embed(config, params, tokens_BT, compute=compute)
        layers = jnp.arange(config.n_layer)
        x_BTD, _ = jax.lax.scan(run, x_BTD, (params["blocks"], layers, gates_LBX))
        total, _ = loss_lib.next_token_loss(
            config, params, x_BTD, labels_BT, compute=compute
        )
        return total / (tokens_BT.shape[1] - 1)

    shape = (config.n_layer, len(tokens_BT), getattr(config, size))
    gradients_LBX = jax.grad(loss)(jnp.ones(shape))
    sums_LX = jnp.square(gradients_LBX).sum(1)
    return jax.lax.with_sharding_constraint(sums_LX, sharding.replicated(mesh))
