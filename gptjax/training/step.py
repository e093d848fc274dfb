"""The one jitted step: gradients accumulated, clipped, applied, zeros kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gptjax import config as config_lib
from gptjax import model, sharding
from gptjax.training import objectives, plateau
from gptjax.training.objectives import Batch
from gptjax.training.optimizer import Schedule
from gptjax.training.state import TrainState

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


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


def mean_gradients(
    config: model.Config,
    params: Any,
    batch: Batch,
    *,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    dropout_key: jax.Array | None = None,
    frozen: Any = None,
) -> tuple[Any, jax.Array]:
    """The gradient of a batch's mean loss, and that loss.

    The gradient is that of every weight, pruned ones too.

    Args:
      batch: arrays (A, B, ...): A parts, one after the other, to save memory.
      dropout_key: None: no dropout.
      frozen: what the objective needs besides; see there.
    """
    scale = objective.scale(batch)

    def loss_and_grads(batch, key):
        def function(params):
            return objective.loss(
                config,
                params,
                batch,
                scale,
                compute=compute,
                dropout_key=key,
                frozen=frozen,
            )

        return jax.value_and_grad(function)(params)

    def add(total, part):
        return jax.tree.map(jnp.add, total, loss_and_grads(*part)), None

    count = objectives.tokens_of(batch).shape[0]
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
    return grads, loss


def make_step(
    config: model.Config,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    places: TrainState,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    *frozen_places: Any,
) -> Step:
    """The jitted training step; masks are arguments, so new ones compile nothing.

    Args:
      config: its dropout rates are used as they stand.
      optimizer: from `make_optimizer`; its `update` takes `masks`.
      places: the shardings of the state, from `state.shardings`.
      compute: on the mesh of `places`.
      frozen_places: the shardings of a teacher's params, if the objective needs one.

    Returns:
      `step(state, batch, key) -> (state, metrics)`, with a teacher `step(state, batch,
      key, teacher_params)`. The state is donated. `batch`
      holds arrays (A, B, ...): A parts whose gradients are accumulated. The dropout
      of a step depends on `key` and `state.step` alone. Metrics, each a scalar on
      the device: `loss` of the objective, in nats, `grad_norm` before clipping,
      `param_norm` after the update, `learning_rate`, and those of the
      objective, e.g. how many `tokens` were predicted.
    """
    has_dropout = config != config.without_dropout()

    def step(state: TrainState, batch: Batch, key: jax.Array, frozen: Any = None):
        grads, loss = mean_gradients(
            config,
            state.params,
            batch,
            compute=compute,
            objective=objective,
            dropout_key=jax.random.fold_in(key, state.step) if has_dropout else None,
            frozen=frozen,
        )
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, masks=state.masks
        )
        params = optax.apply_updates(state.params, updates)
        scale = plateau.scale_of(state.opt_state)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "learning_rate": schedule(state.step) * (1 if scale is None else scale),
            **objective.metrics(batch, loss),
        }
        return TrainState(state.step + 1, params, state.bits, opt_state), metrics

    mesh = places.step.mesh
    whole = sharding.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(places, sharding.batch_sharding(mesh), whole, *frozen_places),
        out_shardings=(places, whole),
        donate_argnums=0,
    )


def make_gradients(
    config: model.Config,
    places: TrainState,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    *frozen_places: Any,
) -> Callable[..., Any]:
    """The jitted gradient of every weight, pruned ones too, without dropout.

    Args:
      objective, frozen_places: as for `make_step`.

    Returns:
      `gradients(params, batch)`, with a teacher `gradients(params, batch,
      teacher_params)`: of the mean loss of arrays (A, B, ...), as a tree like `params`
      of float32, lying as they do.
    """
    config = config.without_dropout()

    def gradients(params: Any, batch: Batch, frozen: Any = None):
        return mean_gradients(
            config, params, batch, compute=compute, objective=objective, frozen=frozen
        )[0]

    batch_place = sharding.batch_sharding(places.step.mesh)
    return jax.jit(
        gradients,
        in_shardings=(places.params, batch_place, *frozen_places),
        out_shardings=places.params,
    )
