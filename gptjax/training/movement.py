"""Movement scores, summed up while a model trains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class MovementState(NamedTuple):
    """State of `track_movement`.

    Attributes:
      movement: the scores so far, a tree like params.
    """

    movement: optax.Updates


def track_movement() -> optax.GradientTransformationExtraArgs:
    """Sums up how far training moves each weight away from zero; changes no update.

        S^(T) = - sum over t < T of (dL/dw)^(t) w^(t)

    with w as it was before step t and its gradient as it came, neither clipped nor
    scaled. The paper's alpha_S, the learning rate of the scores, is a constant of its
    own: it changes no rank and is left out. The weights' learning rate is not in it.

    Belongs right after the first `freeze_pruned`. A pruned weight is 0 and stays so:
    its score keeps the value it had, or 0 where masks change while a phase trains. (In
    the paper pruned weights live on behind a straight-through estimator and may come
    back.)

    Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020,
    arXiv:2005.07683.
    """

    def init(params):
        return MovementState(optax.tree.zeros_like(params, dtype=jnp.float32))

    def update(updates, state, params, **extra):
        del extra
        moved = jax.tree.map(
            lambda score, grad, w: score - grad * w, state.movement, updates, params
        )
        return updates, MovementState(moved)

    return optax.GradientTransformationExtraArgs(init, update)


def movement_scores(opt_state: optax.OptState) -> Any:
    """The scores that `track_movement` summed up, a tree like params.

    Raises:
      KeyError: it is not in the optimizer's chain.
    """
    return optax.tree_utils.tree_get(opt_state, "movement")
