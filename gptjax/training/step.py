"""The one jitted step: gradients accumulated, clipped, applied, zeros kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gptjax import config as config_lib
from gptjax import model, sharding
from gptjax.training import loss as loss_lib
from gptjax.training.optimizer import Schedule
from gptjax.training.state import TrainState

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def compute_of(settings: config_lib.Training, mesh: Mesh) -> model.Compute:
    """How a config's training is computed."""
    return model.Compute(
        dtype=settings.compute_dtype,
        mesh=mesh,
        attention=settings.attention,
        remat=settings.remat,
        unroll=settings.unroll_layers,
        loss_chunk_tokens=settings.loss_chunk_tokens,
    )


def batch_loss(
    config: model.Config,
    params: Any,
    batch: Batch,
    *,
    compute: model.Compute,
    dropout_key: jax.Array | None = None,
    weight: jax.Array | float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """The summed loss of a batch times `weight`, and its number of predicted tokens.

    Args:
      batch: `tokens` and `labels`, and `segments` where documents are kept apart;
        all (B, T).
    """
    x_BTD = model.hidden(
        config,
        params,
        batch["tokens"],
        compute=compute,
        dropout_key=dropout_key,
        segments_BT=batch.get("segments"),
    )
    return loss_lib.next_token_loss(
        config, params, x_BTD, batch["labels"], compute=compute, weight=weight
    )


def mean_gradients(
    config: model.Config,
    params: Any,
    batch: Batch,
    *,
    compute: model.Compute,
    dropout_key: jax.Array | None = None,
) -> tuple[Any, jax.Array, jax.Array]:
    """The gradient of a batch's mean loss, that loss, and its predicted tokens.

    The gradient is that of every weight, pruned ones too.

    Args:
      batch: arrays (A, B, T): A parts, one after the other, to save memory.
      dropout_key: None: no dropout.
    """

    tokens = loss_lib.predicted(batch["labels"])
    # In the loss, so that no pass over all gradients has to divide them.
    weight = 1 / jnp.maximum(tokens, 1).astype(jnp.float32)

    def loss_and_grads(batch, key):
        def function(params):
            return batch_loss(
                config,
                params,
                batch,
                compute=compute,
                dropout_key=key,
                weight=weight,
            )[0]

        return jax.value_and_grad(function)(params)

    def add(total, part):
        return jax.tree.map(jnp.add, total, loss_and_grads(*part)), None

    count = batch["tokens"].shape[0]
    keys = None if dropout_key is None else jax.random.split(dropout_key, count)
    first = jax.tree.map(lambda x: x[0], (batch, keys))
    if count == 1:
        loss, grads = loss_and_grads(*first)
    else:
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(loss_and_grads, *first),
        )
        loss, grads = jax.lax.scan(add, zeros, (batch, keys))[0]
    return grads, loss, tokens


def make_step(
    config: model.Config,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    places: TrainState,
    compute: model.Compute,
) -> Step:
    """The jitted training step; masks are arguments, so new ones compile nothing.

    Args:
      config: its dropout rates are used as they stand.
      optimizer: from `make_optimizer`; its `update` takes `masks`.
      places: the shardings of the state, from `state.shardings`.
      compute: on the mesh of `places`.

    Returns:
      `step(state, batch, key) -> (state, metrics)`. The state is donated. `batch`
      holds arrays (A, B, T): A parts whose gradients are accumulated. The dropout
      of a step depends on `key` and `state.step` alone. Metrics, each a scalar on
      the device: `loss` in nats a token, `grad_norm` before clipping, `param_norm`
      after the update, `learning_rate`, `tokens` predicted.
    """
    has_dropout = config != config.without_dropout()

    def step(state: TrainState, batch: Batch, key: jax.Array):
        grads, loss, tokens = mean_gradients(
            config,
            state.params,
            batch,
            compute=compute,
            dropout_key=jax.random.fold_in(key, state.step) if has_dropout else None,
        )
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, masks=state.masks
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "learning_rate": schedule(state.step),
            "tokens": tokens,
        }
        return TrainState(state.step + 1, params, state.bits, opt_state), metrics

    mesh = places.step.mesh
    whole = sharding.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(places, sharding.batch_sharding(mesh), whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )


def make_gradients(
    config: model.Config,
    places: TrainState,
    compute: model.Compute,
) -> Callable[[Any, Batch], Any]:
    """The jitted gradient of every weight, pruned ones too, without dropout.

    Returns:
      `gradients(params, batch)`: of the mean loss of a batch of arrays (A, B, T), as a
      tree like `params` of float32, lying as they do.
    """
    config = config.without_dropout()

    def gradients(params, batch):
        return mean_gradients(config, params, batch, compute=compute)[0]

    return jax.jit(
        gradients,
        in_shardings=(places.params, sharding.batch_sharding(places.step.mesh)),
        out_shardings=places.params,
    )
