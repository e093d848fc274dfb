"""A learning rate that falls where the validation loss does not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class PlateauState(NamedTuple):
    """State of `scale_by_plateau`.

    Attributes:
      plateau_scale: what updates are multiplied by, float32.
    """

    plateau_scale: jax.Array


def scale_by_plateau() -> optax.GradientTransformation:
    """Multiplies updates by a number that `reduce` changes between steps.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau`, on top of the schedule. The number
    is a part of the state, so that it is saved and compiles nothing anew.
    """

    def init(params):
        del params
        return PlateauState(jnp.ones((), jnp.float32))

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda each: each * state.plateau_scale, updates), state

    return optax.GradientTransformation(init, update)


def scale_of(opt_state: optax.OptState) -> jax.Array | None:
    """What `scale_by_plateau` multiplies by; None where it is not in the chain."""
    return optax.tree_utils.tree_get(opt_state, "plateau_scale")


def reduce(opt_state: optax.OptState, factor: float) -> optax.OptState:
    """The state with the learning rate multiplied by `factor` once more."""
    scale = scale_of(opt_state)
    new = jax.device_put(jnp.float32(factor) * scale, scale.sharding)
    return optax.tree_utils.tree_set(opt_state, plateau_scale=new)
