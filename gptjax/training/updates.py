"""Masks that change while a phase trains: between steps, on concrete arrays."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax import masks
from gptjax.training.state import TrainState
from gptjax.training.step import Batch


class Updates(Protocol):
    """When the masks of a phase change, and to what."""

    def is_due(self, step: int) -> bool:
        """Whether they change when the schedule stands at `step`.

        Asked before a phase's first step and after each.
        """

    def update(self, state: TrainState, batch: Batch) -> masks.Masks:
        """The new masks, lying as those of the state.

        They depend on the arguments and the run's seed alone, so that a run that was
        interrupted goes on as it would have.

        Args:
          state: with `state.step` as `is_due` was asked; read, not donated.
          batch: the batch that the last step learned from; before the first step, the
            one that it will learn from.
        """


def make_change(
    optimizer: optax.GradientTransformationExtraArgs, places: TrainState
) -> Callable[[TrainState, masks.Masks], tuple[TrainState, masks.Masks]]:
    """The jitted change of a state's masks, compiled once like the step.

    Returns:
      `change(state, new) -> (state, kept)`. Weights that do not survive both before
      and after are exactly 0, and the optimizer knows of them what a fresh one would:
      grown weights start from nothing. `kept` are the masks of those that do. The
      state is donated.
    """

    def compute(params, opt_state, bits, new):
        old = masks.unpack(bits, params)
        kept = jax.tree.map(jnp.logical_and, old, new)
        params = masks.apply(params, kept)
        # Moments start at zero in most optimizers, but not in all (adagrad).
        fresh = optimizer.init(params)

        def kept_of(leaf, mask):
            # Factored statistics belong to no single weight.
            is_its_own = masks.is_prunable(mask) and leaf.shape == mask.shape
            return mask if is_its_own else np.True_

        is_kept = optax.tree.map_params(
            optimizer,
            kept_of,
            opt_state,
            kept,
            transform_non_params=lambda leaf: np.True_,
        )
        opt_state = jax.tree.map(jnp.where, is_kept, opt_state, fresh)
        return params, opt_state, masks.pack(new), kept

    compiled = jax.jit(
        compute,
        out_shardings=(places.params, places.opt_state, places.bits, None),
        donate_argnums=(0, 1, 2),
    )

    def change(state: TrainState, new: masks.Masks):
        params, opt_state, bits, kept = compiled(
            state.params, state.opt_state, state.bits, new
        )
        return TrainState(state.step, params, bits, opt_state), kept

    return change


def change_masks(
    change: Callable[[TrainState, masks.Masks], tuple[TrainState, masks.Masks]],
    state: TrainState,
    new: masks.Masks,
) -> tuple[TrainState, dict[str, float]]:
    """The state under new masks, and figures of the change.

    Args:
      change: from `make_change`.

    Returns:
      The state, and `sparsity` after the change with the numbers of weights that it
      `pruned` and that it has `grown`.
    """
    before, after = _alive(state.masks), _alive(new)
    total = sum(int(size.sum()) for size in masks.layer_sizes(new).values())
    state, kept = change(state, new)
    stayed = _alive(kept)
    return state, {
        "sparsity": 1 - after / total,
        "pruned": before - stayed,
        "grown": after - stayed,
    }


def _alive(weight_masks: masks.Masks) -> int:
    return sum(int(count.sum()) for count in masks.survivors(weight_masks).values())
