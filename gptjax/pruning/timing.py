"""Seconds of training steps and of decoding, of several models in turn."""

import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import data, generation, masks, model, sharding, training

REPEATS = 5
"""Timed rounds through all variants, after one that is not counted."""
DECODED_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A model to be timed. Its weights are random: they do not change the time.

    Attributes:
      name: what its figures are called after; the first variant is what the others
        are compared with.
      masks_path: a file of its masks; None: every weight survives.
    """

    name: str
    config: model.Config
    masks_path: pathlib.Path | None = None


def measure(
    trainer: training.Trainer, variants: Sequence[Variant]
) -> dict[str, dict[str, Any]]:
    """Medians and ratios of the time that variants take to step and to decode.

    All take turns in one process, so that ratios hold when the machine's speed
    drifts. A turn makes its model anew, so that there is never more than one.
    Variants of one config share one compiled program, those of the trainer's config
    the trainer's own; they need not be of one shape.

    Args:
      trainer: its settings, texts and mesh serve all variants.

    Returns:
      By the variants' names: step_seconds and decode_seconds, medians; step_ratios
      and decode_ratios: the time over the first variant's in each turn, which tell
      noise from a difference.
    """
    makers: dict[model.Config, _Maker] = {}
    for variant in variants:
        if variant.config not in makers:
            makers[variant.config] = _Maker(_trainer_of(trainer, variant.config))
    named = [(variant, makers[variant.config]) for variant in variants]
    found: dict[str, dict[str, Any]] = {variant.name: {} for variant in variants}
    for what, runs in (("step", _steps(named)), ("decode", _decoding(named))):
        seconds = in_turn(runs)
        first = seconds[variants[0].name]
        for name, own in seconds.items():
            pairs = zip(first, own, strict=True)
            found[name][f"{what}_seconds"] = statistics.median(own)
            found[name][f"{what}_ratios"] = [b / a for a, b in pairs]
    return found


def in_turn(
    runs: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]],
) -> dict[str, list[float]]:
    """Seconds that each run takes, turn by turn.

    Args:
      runs: name -> what makes its argument, not timed, and the run itself. What they
        give is dropped before the next turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(REPEATS + 1):
        for name, (make, run) in runs.items():
            argument = jax.block_until_ready(make())
            began = time.perf_counter()
            result = jax.block_until_ready(run(argument))
            if turn:
                seconds[name].append(time.perf_counter() - began)
            del argument, result
    return seconds


class _Maker:
    """Fresh states of one config, by one compiled program."""

    def __init__(self, trainer: training.Trainer):
        self.trainer = trainer

        def make(key, weight_masks):
            params = masks.apply(model.init(key, trainer.model_config), weight_masks)
            opt_state = trainer.optimizer.init(params)
            step = jnp.zeros((), jnp.int32)
            return training.TrainState(
                step, params, masks.pack(weight_masks), opt_state
            )

        self._make = jax.jit(make, out_shardings=trainer.places)

    def state(self, masks_path: pathlib.Path | None) -> training.TrainState:
        """A state at the start of the schedule, under these masks."""
        if masks_path is None:
            weight_masks = self.trainer.dense_masks()
        else:
            weight_masks = masks.load(masks_path, self.trainer.placed_shapes())
        return self._make(jax.random.key(0), weight_masks)


_Named = Sequence[tuple[Variant, _Maker]]
_Runs = dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]


def _steps(named: _Named) -> _Runs:
    """A training step on one batch, the same for all."""
    trainer = named[0][1].trainer
    places = sharding.batch_sharding(trainer.mesh)
    with contextlib.closing(data.prefetch(trainer.batches(0), places)) as stream:
        batch, _ = next(iter(stream))
    key = trainer.stream_key(0)

    def run(variant, maker):
        return (
            lambda: maker.state(variant.masks_path),
            lambda state: maker.trainer.train_step(state, batch, key),
        )

    return {variant.name: run(variant, maker) for variant, maker in named}


def _decoding(named: _Named) -> _Runs:
    """Greedy decoding after the first tokens of the training text."""
    trainer = named[0][1].trainer
    prompt = np.asarray(trainer.task.tokens.ids[:8]).tolist()

    def run(variant, maker):
        room = variant.config.n_positions - len(prompt)

        how = generation.Options(max_new_tokens=min(DECODED_TOKENS, room))

        def laid_out():
            params = maker.state(variant.masks_path).params
            return generation.Engine(variant.config, params, mesh=trainer.mesh)

        return laid_out, lambda engine: engine.generate([prompt], how).tokens

    return {variant.name: run(variant, maker) for variant, maker in named}


def _trainer_of(trainer: training.Trainer, config: model.Config) -> training.Trainer:
    if config == trainer.model_config:
        return trainer
    return training.Trainer(
        # Groups of a grid need not fit other sizes, and rounding is not what is timed.
        trainer.settings.model_copy(update={"quantization": None}),
        config,
        trainer.mesh,
        texts=trainer.texts,
        schedule_steps=trainer.settings.training.steps,
    )
