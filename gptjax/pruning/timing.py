"""Seconds of training steps and of decoding, of several models in turn."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gptjax import data, generation, masks, model, sharding, training
from gptjax.training import state as state_lib

REPEATS = 5
"""Timed rounds through all variants, after one that is not counted."""
DECODED_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A model to be timed.

    Attributes:
      name: what its figures are called after; the first variant is what the others
        are compared with.
      load_params: gives its params, placed; called once for steps, once for decoding.
      load_masks: gives their masks, newly placed each time: a step donates them.
        None: every weight survives.
    """

    name: str
    config: model.Config
    load_params: Callable[[], Any]
    load_masks: Callable[[], masks.Masks] | None = None


def figures(trainer: training.Trainer, variants: Sequence[Variant]) -> dict[str, Any]:
    """Medians and ratios of the time that variants take to step and to decode.

    All take turns in one process, so that ratios hold when the machine's speed
    drifts. Variants of one config share one compiled program, those of the trainer's
    config the trainer's own; they need not be of one shape.

    Args:
      trainer: its settings, texts and mesh serve all variants.

    Returns:
      For each variant `step_seconds_<name>` and `decode_seconds_<name>`: medians. For
      each but the first `step_ratios_<name>` and `decode_ratios_<name>`: its time over
      the first one's in each turn, which tell noise from a difference.
    """
    found = {}
    timed = {"step": _steps(trainer, variants), "decode": _decoding(trainer, variants)}
    for what, seconds in timed.items():
        first = seconds[variants[0].name]
        for name, own in seconds.items():
            found[f"{what}_seconds_{name}"] = statistics.median(own)
        for name, own in list(seconds.items())[1:]:
            pairs = zip(first, own, strict=True)
            found[f"{what}_ratios_{name}"] = [b / a for a, b in pairs]
    return found


def in_turn(
    runs: Mapping[str, tuple[Callable[[], Any], Callable[[Any], None]]],
) -> dict[str, list[float]]:
    """Seconds that each run takes, turn by turn.

    Args:
      runs: name -> what makes its argument, not timed, and the run itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(REPEATS + 1):
        for name, (make, run) in runs.items():
            argument = jax.block_until_ready(make())
            began = time.perf_counter()
            run(argument)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _decoding(
    trainer: training.Trainer, variants: Sequence[Variant]
) -> dict[str, list[float]]:
    """Seconds of greedy decoding after the first tokens of the training text."""
    prompt = np.asarray(trainer.train_tokens.ids[:8]).tolist()
    params = {variant.name: variant.load_params() for variant in variants}

    def run(variant):
        def decode(params):
            room = variant.config.n_positions - len(prompt)
            generation.generate(
                variant.config,
                params,
                [prompt],
                max_new_tokens=min(DECODED_TOKENS, room),
                greedy=True,
                mesh=trainer.mesh,
            )

        return lambda: params[variant.name], decode

    return in_turn({variant.name: run(variant) for variant in variants})


def _steps(
    trainer: training.Trainer, variants: Sequence[Variant]
) -> dict[str, list[float]]:
    """Seconds of a training step on one batch, the same for all."""
    places = sharding.batch_sharding(trainer.mesh)
    with contextlib.closing(data.prefetch(trainer.batches(0), places)) as stream:
        batch, _ = next(iter(stream))
    steppers: dict[Hashable, _Stepper] = {}
    for variant in variants:
        if variant.config not in steppers:
            own = _trainer_of(trainer, variant.config)
            steppers[variant.config] = _Stepper(own, variant, batch)
    return in_turn(
        {variant.name: steppers[variant.config].run(variant) for variant in variants}
    )


def _trainer_of(trainer: training.Trainer, config: model.Config) -> training.Trainer:
    if config == trainer.model_config:
        return trainer
    return training.Trainer(
        trainer.settings,
        config,
        trainer.mesh,
        train=trainer.train_tokens,
        valid=None,
        schedule_steps=trainer.settings.training.steps,
    )


class _Stepper:
    """The one state that variants of a config step in turn, since two may not fit.

    What its weights have become by then does not change the time of a step.
    """

    def __init__(self, trainer: training.Trainer, variant: Variant, batch: Any):
        self.trainer, self.batch = trainer, batch
        self.key = trainer.stream_key(0)
        self.state = state_lib.start(
            variant.load_params(),
            self._masks(variant),
            trainer.optimizer,
            step=0,
            mesh=trainer.mesh,
        )

    def run(self, variant: Variant):
        """What makes the argument of a step of that variant, and the step."""
        return lambda: self._masks(variant), self._step

    def _masks(self, variant: Variant) -> masks.Masks:
        make = variant.load_masks or self.trainer.dense_masks
        # Scalars, too: a step that is handed another kind of array compiles again.
        return jax.device_put(make(), self.trainer.places.masks)

    def _step(self, weight_masks: masks.Masks) -> None:
        state = dataclasses.replace(self.state, masks=weight_masks)
        self.state, metrics = self.trainer.train_step(state, self.batch, self.key)
        jax.block_until_ready(metrics)
