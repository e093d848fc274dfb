"""What changes the masks of a phase, from the config of its run."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gptjax import errors, training
from gptjax.pruning import ranking
from gptjax.pruning.criteria import magnitude, movement, random, taylor
from gptjax.pruning.dynamic import evolution, gradual, rigl
from gptjax.pruning.dynamic import times as times_lib

# Folded into the run's key, which rounds and their controls draw from too.
_PURPOSE = 0x5E7


def updates(
    trainer: training.Trainer,
    *,
    sparsities_for: Callable[[float], ranking.PerLayer | float],
) -> training.Updates | None:
    """What `training.Phase.updates` takes; None where the masks of a phase stay.

    A phase of `rigl` or `set` starts with masks of the sparsity it keeps, one of
    `gradual` with dense masks.

    Args:
      sparsities_for: for a sparsity of the whole what `selection.select` takes: one
        number for scope "global", else one for each layer of each leaf. Only
        `gradual` asks.

    Raises:
      UserError: movement scores are asked for before there are any.
    """
    pruning = trainer.settings.pruning
    assert pruning is not None
    asked = pruning.updates
    if pruning.schedule not in ("gradual", "rigl", "set"):
        return None
    times = times_lib.of(trainer.settings)
    if pruning.schedule == "rigl":
        return rigl.RigL(
            times=times,
            drop_fraction=asked.drop_fraction,
            gradients=trainer.gradients,
        )
    if pruning.schedule == "set":
        return evolution.Evolution(
            times=times,
            drop_fraction=asked.drop_fraction,
            numbers=_random_numbers(trainer),
        )
    is_too_early = times.first == 0 and asked.initial_sparsity > 0
    if pruning.criterion == "movement" and is_too_early:
        raise errors.UserError(
            "pruning.updates.first_step: 0, where nothing has moved yet; movement with "
            f"initial_sparsity {asked.initial_sparsity} needs at least 1"
        )
    return gradual.Gradual(
        times=times,
        initial=asked.initial_sparsity,
        final=pruning.targets()[-1],
        scores=_scores(trainer, pruning.criterion),
        scope=pruning.ranked_together,
        sparsities_for=sparsities_for,
    )


def _scores(trainer: training.Trainer, criterion: str) -> Callable[..., Any]:
    """`scores(state, batch)`, while a model trains."""
    numbers = _random_numbers(trainer)
    return {
        "magnitude": lambda state, batch: magnitude.scores(state.params),
        "random": lambda state, batch: numbers(int(state.step)),
        "taylor": lambda state, batch: taylor.saliency(
            state.params, trainer.gradients(state.params, batch)
        ),
        "movement": lambda state, batch: movement.scores(state),
    }[criterion]


def _random_numbers(trainer: training.Trainer) -> Callable[[int], Any]:
    """`numbers(step)`: random scores, by the run's seed and the step alone."""
    make = jax.jit(
        functools.partial(random.scores, trainer.shapes),
        out_shardings=trainer.places.params,
    )

    def numbers(step: int) -> Any:
        key = jax.random.fold_in(jax.random.key(trainer.settings.seed), _PURPOSE)
        return make(jax.random.fold_in(key, step))

    return numbers
