"""The moving average of the weights that training passes through."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageState(NamedTuple):
    """State of `track_average`.

    Attributes:
      average: of the weights so far, a tree like params, float32.
    """

    average: optax.Params


def track_average(decay: float) -> optax.GradientTransformationExtraArgs:
    """Follows the weights at a distance; changes no update.

    A^(t) = decay A^(t-1) + (1 - decay) w^(t), from the weights that training starts
    with. Belongs at the end of a chain, where the update is what is added to the
    weights: a pruned weight is 0 all the while, and so is its average.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992;
    as a moving average, Tarvainen and Valpola, 2017, arXiv:1703.01780.
    """

    def init(params):
        # Copies: state and average are donated, each for itself.
        return AverageState(jax.tree.map(lambda w: jnp.array(w, jnp.float32), params))

    def update(updates, state, params, **extra):
        del extra
        moved = jax.tree.map(
            lambda average, w, step: decay * average + (1 - decay) * (w + step),
            state.average,
            params,
            updates,
        )
        return updates, AverageState(moved)

    return optax.GradientTransformationExtraArgs(init, update)


def average_of(opt_state: optax.OptState) -> Any:
    """The average that `track_average` keeps, a tree like params.

    Raises:
      KeyError: it is not in the optimizer's chain.
    """

    def is_own(path, value):
        # A classifier may be called so, too.
        del value
        return getattr(path[-1], "tuple_name", None) == "AverageState"

    return optax.tree_utils.tree_get(opt_state, "average", filtering=is_own)
