"""The loop: a phase of training, resumable at any moment."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import data, errors, evaluation, masks, sharding
from gptjax.training import checkpoints as checkpoints_lib
from gptjax.training import (
    logs,
    objectives,
    plateau,
    profiling,
    signals,
    utilization,
)
from gptjax.training import updates as updates_lib
from gptjax.training.phase import Phase
from gptjax.training.state import TrainState
from gptjax.training.step import Batch
from gptjax.training.trainer import Trainer


@dataclasses.dataclass
class _Remembered:
    """What a phase remembers beside its state; stored with each checkpoint."""

    best_loss: float = math.inf
    evaluations_without_better: int = 0
    data: Any = None


def fit(
    trainer: Trainer,
    phase: Phase,
    *,
    load_params: Callable[[], Any],
    weight_masks: masks.Masks,
) -> tuple[TrainState, evaluation.Result | None]:
    """Trains a phase to its end, from its newest checkpoint if there is one.

    Args:
      load_params: gives the placed params to start from; called only if needed.
      weight_masks: placed masks to start with. They are deleted: the state holds
        them packed.

    Returns:
      The last state (with early stopping, the best one), and its result on the
      validation texts, if there are some. `Trainer.whole` makes a model of its params.

    Raises:
      Diverged: the loss or a gradient is not finite.
      Stopped: by SIGTERM or SIGINT, after saving.
    """
    checkpoints = checkpoints_lib.Checkpoints(
        trainer.folder / "checkpoints" / phase.name,
        keep=trainer.settings.training.keep_checkpoints,
        masks_change=phase.updates is not None,
    )
    with contextlib.closing(checkpoints):
        return _Fit(trainer, phase, checkpoints, load_params, weight_masks).run()


class _Fit:
    """One call of `fit`: what it keeps while it runs."""

    def __init__(self, trainer, phase, checkpoints, load_params, weight_masks):
        self.trainer, self.phase, self.checkpoints = trainer, phase, checkpoints
        self.settings = trainer.settings.training
        self.remembered = _Remembered()
        self.batches = trainer.batches(phase.stream)
        latest = checkpoints.latest()
        if latest is None:
            self.state = trainer.start(load_params(), weight_masks, phase.start)
        else:
            bits = jax.device_put(masks.pack(weight_masks), trainer.places.bits)
            self.state = self._restore(latest, bits)
        for mask in jax.tree.leaves(weight_masks):
            if isinstance(mask, jax.Array):
                mask.delete()
        self.step = int(self.state.step)
        trainer.log.resume(phase.name, self.step - (latest is None))
        self.pending: tuple[int, Batch, dict[str, jax.Array]] | None = None
        self.result: tuple[int, evaluation.Result] | None = None
        self.change: dict[str, float] = {}
        self.values: dict[str, float] = {}
        self.profiler = profiling.Profiler(
            self.settings.profile,
            trainer.folder,
            phase=phase.name,
            is_main=trainer.is_main,
        )
        self._restart_clock()

    def _restore(self, step: int, bits: masks.Masks) -> TrainState:
        shapes = self.trainer.shapes
        like = TrainState(
            step=jax.ShapeDtypeStruct((), jnp.int32),
            params=shapes,
            bits=bits,
            opt_state=jax.eval_shape(self.trainer.optimizer.init, shapes),
        )
        restored, extra = self.checkpoints.restore(step, like, self.trainer.places)
        self.remembered = _Remembered(**extra)
        self.batches.set_state(self.remembered.data)
        return restored

    def run(self) -> tuple[TrainState, evaluation.Result | None]:
        phase, trainer = self.phase, self.trainer
        self.progress = logs.Progress(
            phase.name, start=self.step, end=phase.end, is_main=trainer.is_main
        )
        key = trainer.stream_key(phase.stream)
        places = sharding.batch_sharding(trainer.mesh)
        steps_left = 0 if self._is_exhausted() else phase.end - self.step
        with (
            signals.StopRequest() as stop,
            self.progress.shown(),
            contextlib.closing(self.profiler),
        ):
            with contextlib.closing(data.prefetch(self.batches, places)) as stream:
                for batch, data_state in itertools.islice(stream, steps_left):
                    self.remembered.data = data_state
                    if self.step == phase.start:
                        self._update_masks(batch)
                    if self.profiler.is_due(self.step + 1):
                        jax.block_until_ready(self.state)
                        self.profiler.start(self.step + 1)
                    self.state, metrics = trainer.take_step(self.state, batch, key)
                    self.step += 1
                    # Read only now, so that the device was given the next step first.
                    self._read_pending()
                    self.pending = (self.step, batch, metrics)
                    self._update_masks(batch)
                    if self.profiler.is_tracing and self.profiler.is_last(self.step):
                        self._stop_profiling()
                    self._after_step()
                    if self._is_exhausted():
                        break
                    if stop.reached(self.step):
                        self._save()
                        self.checkpoints.wait()
                        raise errors.Stopped(
                            f"stopped by {stop.signal.name} after step {self.step} of "
                            f"{phase.name}; saved, the same command goes on from there",
                            signal=stop.signal,
                        )
            self._finish()
        params = trainer.result_of(self.state)
        state = dataclasses.replace(self.state, params=params)
        return state, self.result[1] if self.result else None

    def _stop_profiling(self) -> None:
        jax.block_until_ready(self.state)
        self.progress.say(self.profiler.stop(self.step))
        self._read_pending()
        self._restart_clock()

    def _is_exhausted(self) -> bool:
        patience = self.settings.early_stopping_evaluations
        return bool(patience) and (
            self.remembered.evaluations_without_better >= patience
        )

    def _update_masks(self, batch: Batch) -> None:
        updates, log = self.phase.updates, self.trainer.log
        if updates is None or not updates.is_due(self.step):
            return
        self._read_pending()  # a state that is not finite is no ground to prune on
        self.state, self.change = updates_lib.change_masks(
            self.trainer.change_masks, self.state, updates.update(self.state, batch)
        )
        log.write(self.phase.name, self.step, **self.change)

    def _after_step(self) -> None:
        def is_due(every):
            return every and self.step % every == 0

        if self.phase.snapshot is not None and self.phase.snapshot[0] == self.step:
            self._read_pending()
            self.phase.snapshot[1](self.state.params)
        if self.step == self.phase.end:
            return  # _finish evaluates and saves, in that order
        is_better = is_due(self.settings.evaluate_every_steps) and self._evaluate()
        if is_better or is_due(self.settings.checkpoint_every_steps):
            self._save()

    def _finish(self) -> None:
        self._read_pending()
        if self.profiler.is_tracing:
            self._stop_profiling()
        elif self.profiler.is_missed:
            self.progress.say(
                f"{self.phase.name}: no profile, for it did not train steps "
                f"{self.settings.profile.steps} now"
            )
        if self._is_exhausted():
            best = self.checkpoints.best()
            self.state = self._restore(best, self.state.bits)
            self.step, self.result = best, None
            self.progress.say(f"{self.phase.name}: no better; back to step {best}")
        if self.result is None or self.result[0] != self.step:
            self._evaluate()
        self._save()
        self.checkpoints.wait()

    def _evaluate(self) -> bool:
        """Measures the model; whether its loss is the best so far."""
        if not self.trainer.task.is_measured:
            return False
        trainer = self.trainer
        result = trainer.evaluate(trainer.whole(trainer.result_of(self.state)))
        self.result = (self.step, result)
        is_better = result.loss < self.remembered.best_loss
        if is_better:
            self.remembered.best_loss = result.loss
            self.remembered.evaluations_without_better = 0
        else:
            self.remembered.evaluations_without_better += 1
            self._reduce_on_plateau()
        figures = result.figures()
        self.trainer.log.write(
            self.phase.name,
            self.step,
            **{f"valid_{name}": value for name, value in figures.items()},
        )
        name, value = next(iter(figures.items()))
        self.progress.say(
            f"{self.phase.name} step {self.step}/{self.phase.end} {name} {value:.3f}"
        )
        self.trainer.on_evaluation(self.phase, self.step, result)
        self._restart_clock()
        return is_better

    def _reduce_on_plateau(self) -> None:
        optimizer = self.trainer.settings.optimizer
        patience = optimizer.plateau_evaluations
        if patience and not self.remembered.evaluations_without_better % patience:
            reduced = plateau.reduce(self.state.opt_state, optimizer.plateau_factor)
            self.state = dataclasses.replace(self.state, opt_state=reduced)

    def _save(self) -> None:
        self._read_pending()
        measured = self.result is not None and self.result[0] == self.step
        self.checkpoints.save(
            self.state,
            dataclasses.asdict(self.remembered),
            valid_loss=self.result[1].loss if measured else None,
        )

    def _restart_clock(self) -> None:
        """What steps up to the present one took is not counted."""
        self.clock, self.clock_step = time.monotonic(), self.step
        self.lengths: list[tuple[int, int]] = []

    def _read_pending(self) -> None:
        """Fetches, checks and logs the metrics of the last step that was handed out."""
        if self.pending is None:
            return
        (step, batch, metrics), self.pending = self.pending, None
        if step > self.clock_step:
            tokens = objectives.tokens_of(batch)
            self.lengths.append((tokens.size, tokens.shape[-1]))
        values = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            last = self.checkpoints.latest()
            self.checkpoints.wait()
            raise errors.Diverged(self._diverged(step, values, last))
        # What only some steps measure, those of one of several tasks, is kept.
        values = self.values = self.values | values
        is_due = step % self.settings.log_every_steps == 0 or step == self.phase.end
        if is_due:
            values |= self._speed(time.monotonic() - self.clock)
            self.trainer.log.write(self.phase.name, step, **values)
            self.clock, self.clock_step, self.lengths = time.monotonic(), step, []
            self.values = {}
        self.progress.step(step, {**values, **self.change} if is_due else None)

    def _speed(self, seconds: float) -> dict[str, float]:
        """Tokens a second, FLOPs over the peak where that is known, and memory.

        Of padding too: the machine computes it like any other token.
        """
        trainer, tokens = self.trainer, sum(count for count, _ in self.lengths)
        found = {"tokens_per_second": tokens / seconds}
        peak = utilization.peak_flops(
            trainer.mesh, compute_dtype=self.settings.compute_dtype
        )
        if peak is not None:
            flops = utilization.flops_per_token(
                trainer.model_config,
                parameters=trainer.parameters(),
                frozen=trainer.frozen_parameters(),
                sequence_tokens=sum(n * length for n, length in self.lengths) / tokens,
            )
            found["mfu"] = tokens * flops / seconds / peak
        return {**found, **utilization.memory()}

    def _diverged(self, step: int, values: dict[str, float], last: int | None) -> str:
        bad = ", ".join(
            f"{name} {value}"
            for name, value in values.items()
            if not math.isfinite(value)
        )
        folder = self.checkpoints.folder
        good = "none was saved yet" if last is None else str(folder / str(last))
        return (
            f"{self.phase.name} step {step}: {bad} on batch {step - self.phase.start} "
            f"of stream {self.phase.stream} (seed {self.trainer.settings.seed}); last "
            f"good checkpoint: {good}"
        )
