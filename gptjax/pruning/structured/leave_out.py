"""Layers by the loss that their absence costs, measured."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import model, sharding
from gptjax.pruning.structured import reading
from gptjax.training import loss as loss_lib


def greedy(
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    *,
    count: int,
    batch_sequences: int,
    mesh: Mesh,
) -> tuple[list[int], list[list[float | None]]]:
    """The layers to drop, one after another, and the losses by which they were chosen.

    Every layer that is still there is left out in turn, the one whose absence gives
    the lowest loss on the calibration sequences is dropped, and the others measured
    anew without it.

    Returns:
      The layers in the order that they go, and for each of them the loss, in nats a
      token, without each layer (and without those before it); None for those gone.
    """
    dropped: list[int] = []
    steps = []
    for _ in range(count):
        losses: list[float | None] = []
        for layer in range(config.n_layer):
            if layer in dropped:
                losses.append(None)
                continue
            is_kept_L = np.ones(config.n_layer, bool)
            is_kept_L[[*dropped, layer]] = False
            losses.append(
                loss(
                    config,
                    params,
                    tokens_NT,
                    is_kept_L,
                    batch_sequences=batch_sequences,
                    mesh=mesh,
                )
            )
        left = [number for number, value in enumerate(losses) if value is not None]
        dropped.append(min(left, key=losses.__getitem__))
        steps.append(losses)
    return dropped, steps


def loss(
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    is_kept_L: np.ndarray,
    *,
    batch_sequences: int,
    mesh: Mesh,
) -> float:
    """The mean loss, in nats a token, of the model with only some of its layers.

    The layers that stay compute what they did, whatever their new number is.
    """
    total = 0.0
    for tokens_BT, weights_B in reading.batches(
        tokens_NT, batch_sequences=batch_sequences, mesh=mesh
    ):
        total += float(_loss(config, params, tokens_BT, weights_B, is_kept_L, mesh))
    return total / (len(tokens_NT) * (tokens_NT.shape[1] - 1))


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _loss(config, params, tokens_BT, weights_B, is_kept_L, mesh):
    compute = model.Compute(mesh=mesh)

    def run(x_BTD, per_layer):
        block, layer, is_kept = per_layer
        y_BTD, _ = model.apply_block(config, block, x_BTD, layer=layer, compute=compute)
        return jnp.where(is_kept, y_BTD, x_BTD), None

    x_BTD = model.embed(config, params, tokens_BT, compute=compute)
    layers = jnp.arange(config.n_layer)
    x_BTD, _ = jax.lax.scan(run, x_BTD, (params["blocks"], layers, is_kept_L))
    labels_BT = jnp.where(weights_B[:, None] > 0, tokens_BT, loss_lib.IGNORED)
    total, _ = loss_lib.next_token_loss(
        config, params, x_BTD, labels_BT, compute=compute
    )
    return jax.lax.with_sharding_constraint(total, sharding.replicated(mesh))
