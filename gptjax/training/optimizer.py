"""Optax optimizers by name, wrapped so that pruned weights stay zero."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gptjax import config, errors, masks, tree
from gptjax.training import layerwise, movement, moving_average, plateau
from gptjax.training.rates import Rates

OPTIMIZERS = (
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "optimistic_adam_v2",
    "radam",
    "rmsprop",
    "sgd",
    "sign_sgd",
    "signum",
    "yogi",
)
"""Optax's, but those that need more than gradients (lbfgs, polyak_sgd), that take no
schedule (fromage, rprop, sm3) or that add noise of their own (noisy_sgd)."""

DECAY_RULES: tree.Rules = (
    (r".*/(kernel|embedding|weight)", True),
    (r".*/(bias|scale)", False),
    (r".*/lora_[ab]", True),
)


def make_schedule(settings: config.Optimizer, *, steps: int) -> Rates:
    """The learning rate at each step: a linear warmup, then the decay.

    The warmup reaches the peak at step `warmup_steps`; the decay ends at `steps`, as
    in `transformers.get_cosine_schedule_with_warmup` where `final_fraction` is 0.

    Args:
      steps: the length of the whole schedule.

    Raises:
      UserError: if the warmup does not end before the schedule.
    """
    warmup, peak = settings.warmup_steps, settings.learning_rate
    if warmup and warmup >= steps:
        raise errors.UserError(
            f"optimizer.warmup_steps: {warmup} do not end within {steps} steps"
        )
    decay_steps = max(steps - warmup, 1)
    final = settings.final_fraction
    decay = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=final),
    }[settings.schedule]
    if warmup:
        decay = optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warmup), decay], [warmup]
        )
    return Rates(decay, steps=steps)


def make_optimizer(
    settings: config.Optimizer,
    schedule: Rates,
    params: Any,
    *,
    tracks_movement: bool = False,
    average_decay: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run; its `update` needs the keyword `masks`.

    Args:
      params: a tree of arrays or shapes, for the table of decayed leaves.
      tracks_movement: whether its state holds movement scores.
      average_decay: of the weights' moving average in its state; None: it has none.

    Raises:
      UserError: an unknown name, or options that the optimizer does not take.
    """
    if settings.name not in OPTIMIZERS:
        raise errors.UserError(
            f"optimizer.name: {settings.name!r} is not one of " + ", ".join(OPTIMIZERS)
        )
    make = getattr(optax, settings.name)
    known = inspect.signature(make).parameters
    for option in settings.options:
        if option not in known or option in ("learning_rate", "weight_decay"):
            raise errors.UserError(
                f"optimizer.options.{option}: {settings.name} takes "
                + ", ".join(name for name in known if name != "learning_rate")
            )
    options = dict(settings.options)
    decay_key = next(
        (k for k in ("weight_decay", "weight_decay_rate") if k in known), ""
    )
    if decay_key:
        options[decay_key] = settings.weight_decay
        mask_key = "weight_decay_mask" if "weight_decay_mask" in known else "mask"
        if mask_key in known:
            flat = tree.flatten(params)
            # An adapter has no biases, and a model no adapter.
            present = [
                r for r in DECAY_RULES if any(tree.covers(r[0], p) for p in flat)
            ]
            options[mask_key] = tree.match_tree(present, params, table="weight decay")
    elif settings.weight_decay:
        raise errors.UserError(
            f"optimizer.weight_decay: {settings.name} has none; set it to 0"
        )
    clip = optax.identity()
    if settings.clip_norm is not None:
        clip = _clip_by_global_norm(settings.clip_norm)
    return optax.chain(
        masks.freeze_pruned(),
        *([movement.track_movement()] if tracks_movement else []),
        clip,
        make(learning_rate=schedule, **options),
        *_of_layers(settings, params),
        *([plateau.scale_by_plateau()] if settings.plateau_evaluations else []),
        masks.freeze_pruned(),
        *(
            [moving_average.track_average(average_decay)]
            if average_decay is not None
            else []
        ),
    )


def _of_layers(
    settings: config.Optimizer, params: Any
) -> list[optax.GradientTransformation]:
    if settings.layer_decay == 1 and not settings.unfreeze_every_steps:
        return []
    scale = layerwise.scale_layers(
        params,
        decay=settings.layer_decay,
        unfreeze_every_steps=settings.unfreeze_every_steps,
    )
    return [scale]


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """As optax's, which divides by the norm: XLA keeps the quotients of all weights.

    Pascanu, Mikolov and Bengio, 2013, arXiv:1211.5063.
    """

    def update(updates, state, params=None):
        del params
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < most, 1, most / norm)
        return jax.tree.map(lambda each: each * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def start_schedule_at(opt_state: optax.OptState, step: int) -> optax.OptState:
    """A fresh optimizer state whose learning rate starts at `step` of the schedule.

    Only the schedule's own counter moves: Adam's, for its bias correction, counts
    the updates of its moments.
    """

    def is_schedule(path, value):
        del value
        return getattr(path[-1], "tuple_name", None) == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(
        opt_state, is_schedule, count=jnp.asarray(step, jnp.int32)
    )
