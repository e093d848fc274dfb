"""TrainState: all that a training step changes, and how it lies on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gptjax import masks, sharding
from gptjax.training import optimizer as optimizer_lib


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "bits", "opt_state"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only: no functions, no config.

    Attributes:
      step: int32, the next step's place in the learning-rate schedule.
      params: float32 weights, exactly 0 where pruned.
      bits: the masks, packed: see `masks.pack`.
      opt_state: optax's.
    """

    step: jax.Array
    params: Any
    bits: Any
    opt_state: Any

    @property
    def masks(self) -> masks.Masks:
        """Which weights survive, unpacked; bool, see `gptjax.masks`."""
        return masks.unpack(self.bits, self.params)


def shardings(
    mesh: Mesh,
    params: Any,
    weight_masks: masks.Masks,
    optimizer: optax.GradientTransformationExtraArgs,
) -> TrainState:
    """A TrainState of shardings: packed masks and moments lie as their params do.

    Args:
      params, weight_masks: arrays or shapes.
    """
    whole = sharding.replicated(mesh)
    of_params = sharding.param_shardings(mesh, params)
    of_bits = jax.tree.map(
        lambda mask, place: place if masks.is_prunable(mask) else whole,
        weight_masks,
        of_params,
    )
    opt_shapes = jax.eval_shape(optimizer.init, params)

    def like_param(leaf, param, place):
        # Factored statistics (adafactor, sm3) keep another shape, and little of it.
        return place if leaf.shape == param.shape else whole

    of_opt_state = optax.tree.map_params(
        optimizer,
        like_param,
        opt_shapes,
        params,
        of_params,
        transform_non_params=lambda leaf: whole,
    )
    return TrainState(whole, of_params, of_bits, of_opt_state)


def make_start(
    optimizer: optax.GradientTransformationExtraArgs, places: TrainState
) -> Callable[[Any, masks.Masks, int], TrainState]:
    """What begins a phase, compiled once like the step.

    Args:
      places: from `shardings`.

    Returns:
      `start(params, weight_masks, step)`: a state with a fresh optimizer, at `step` of
      the schedule. Params are placed arrays of any floating dtype and are not donated;
      those that the masks prune are zeroed.
    """

    @functools.partial(jax.jit, out_shardings=places)
    def start(params, weight_masks, step):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        params = masks.apply(params, weight_masks)
        opt_state = optimizer_lib.start_schedule_at(optimizer.init(params), step)
        bits = masks.pack(weight_masks)
        return TrainState(jnp.asarray(step, jnp.int32), params, bits, opt_state)

    return start
