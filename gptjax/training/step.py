"""The one jitted step: gradients accumulated, clipped, applied, zeros kept."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gptjax import config as config_lib
from gptjax import model, sharding
from gptjax.training import adversarial, objectives, plateau
from gptjax.training.objectives import Batch
from gptjax.training.rates import Rates
from gptjax.training.state import TrainState


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


class Step:
    """A jitted training step that is handed the learning rates of its schedule."""

    def __init__(self, jitted: Any, schedule: Rates, place: jax.sharding.Sharding):
        self._jitted, self._schedule, self._place = jitted, schedule, place

    @functools.cached_property
    def _rates(self) -> jax.Array:
        return sharding.place(self._schedule.table, self._place)

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array, *frozen: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        return self._jitted(state, batch, key, self._rates, *frozen)

    def lower(self, state: Any, batch: Any, key: Any, *frozen: Any) -> Any:
        """As of a jitted function; on devices that are not there, too."""
        rates = jax.ShapeDtypeStruct(self._schedule.table.shape, jnp.float32)
        return self._jitted.lower(state, batch, key, rates, *frozen)

    def _cache_size(self) -> int:
        return self._jitted._cache_size()


def mean_gradients(
    config: model.Config, params: Any, batch: Batch, **given: Any
) -> tuple[Any, jax.Array]:
    """The gradient of a batch's mean loss, and that loss; arguments as for `learnt`."""
    grads, found = learnt(config, params, batch, **given)
    return grads, found["loss"]


def learnt(
    config: model.Config,
    params: Any,
    batch: Batch,
    *,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    dropout_key: jax.Array | None = None,
    dropout_scale: jax.Array | None = None,
    frozen: Any = None,
    adversary: config_lib.Adversarial | None = None,
    adversary_key: jax.Array | None = None,
) -> tuple[Any, dict[str, jax.Array]]:
    """The gradient of a batch's mean loss, and figures: that `loss`, and others.

    The gradient is that of every weight, pruned ones too.

    Args:
      batch: arrays (A, B, ...): A parts, one after the other, to save memory.
      dropout_key: None: no dropout.
      dropout_scale: what its rates are multiplied by; None: nothing.
      frozen: what the objective needs besides; see there.
      adversary: moves embeddings; adds `adversarial_loss`. The same entries are dropped
        whichever way they are moved, so that moves alone make a difference.
      adversary_key: of its moves.
    """
    scale = objective.scale(batch)

    def loss_and_grads(part, dropout_key, adversary_key):
        def loss(params, shift_BTD=None):
            return objective.loss(
                config,
                params,
                objectives.shifted(part, shift_BTD),
                scale,
                compute=compute,
                dropout_key=model.scaled(dropout_key, dropout_scale),
                frozen=frozen,
            )

        if adversary is None:
            value, grads = jax.value_and_grad(loss)(params)
            return grads, {"loss": value}
        return adversarial.gradients(
            adversary,
            loss,
            params,
            objective.is_read(config, part),
            config.n_embd,
            adversary_key,
        )

    def add(total, part):
        return jax.tree.map(jnp.add, total, loss_and_grads(*part)), None

    count = objectives.tokens_of(batch).shape[0]
    keys = (
        None if key is None else jax.random.split(key, count)
        for key in (dropout_key, adversary_key)
    )
    parts = (batch, *keys)
    first = jax.tree.map(lambda x: x[0], parts)
    if count == 1:
        return loss_and_grads(*first)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(loss_and_grads, *first)
    )
    return jax.lax.scan(add, zeros, parts)[0]


def make_step(
    config: model.Config,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Rates,
    places: TrainState,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    *frozen_places: Any,
    adversary: config_lib.Adversarial | None = None,
    dropout_schedule: config_lib.DropoutSchedule | None = None,
) -> Step:
    """The jitted training step; masks are arguments, so new ones compile nothing.

    Args:
      config: its dropout rates are used as they stand.
      optimizer: from `make_optimizer` with this schedule; its `update` takes `masks`.
      places: the shardings of the state, from `state.shardings`.
      compute: on the mesh of `places`.
      frozen_places: the shardings of a teacher's params, if the objective needs one.
      adversary, dropout_schedule: of the config, where it has them.

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

    def step(
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        rates: jax.Array,
        frozen: Any = None,
    ):
        key = jax.random.fold_in(key, state.step)
        grads, found = learnt(
            config,
            state.params,
            batch,
            compute=compute,
            objective=objective,
            dropout_key=key if has_dropout else None,
            dropout_scale=dropout_scale(dropout_schedule, state.step),
            frozen=frozen,
            adversary=adversary,
            adversary_key=None if adversary is None else jax.random.fold_in(key, 0),
        )
        with schedule.given(rates):
            updates, opt_state = optimizer.update(
                grads, state.opt_state, state.params, masks=state.masks
            )
            rate = schedule(state.step)
        params = optax.apply_updates(state.params, updates)
        scale = plateau.scale_of(state.opt_state)
        metrics = {
            **found,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "learning_rate": rate * (1 if scale is None else scale),
            **objective.metrics(batch, found["loss"]),
        }
        return TrainState(state.step + 1, params, state.bits, opt_state), metrics

    mesh = places.step.mesh
    whole = sharding.replicated(mesh)
    batch_place = sharding.batch_sharding(mesh)
    jitted = jax.jit(
        step,
        in_shardings=(places, batch_place, whole, whole, *frozen_places),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    return Step(jitted, schedule, whole)


def dropout_scale(
    schedule: config_lib.DropoutSchedule | None, step: jax.Array
) -> jax.Array | None:
    """What dropout rates are multiplied by in a step, float32; None: by nothing."""
    if schedule is None:
        return None
    done = jnp.minimum(step.astype(jnp.float32) / schedule.steps, 1)
    return schedule.start + (schedule.end - schedule.start) * done


def make_gradients(
    config: model.Config,
    places: TrainState,
    compute: model.Compute,
    objective: objectives.Objective = objectives.LANGUAGE,
    *frozen_places: Any,
) -> Callable[..., Any]:
    """The jitted gradient of every weight, pruned ones too, without dropout or moves.

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
