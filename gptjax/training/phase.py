"""A stretch of training, and who is told how it goes."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from gptjax import evaluation
from gptjax.training import updates as updates_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with masks of its own: a round, or a control of it.

    Attributes:
      name: of its checkpoints and in the logs, e.g. `02` or `02-random`.
      start, end: steps of the learning-rate schedule.
      stream: number of its stream of batches and dropout keys; phases with the same
        number see the same batches.
      snapshot: called with the params when a step ends that it names.
      updates: changes the masks while the phase trains; None: they stay.
    """

    name: str
    start: int
    end: int
    stream: int = 0
    snapshot: tuple[int, Callable[[Any], None]] | None = None
    updates: updates_lib.Updates | None = None


class OnEvaluation(Protocol):
    """Called with what a phase's model is worth after a step, and at its end.

    Whatever it raises ends the run, which goes on from its last checkpoint if it is
    started again.
    """

    def __call__(
        self, phase: Phase, step: int, result: evaluation.Result, /
    ) -> None: ...


def ignore(phase: Phase, step: int, result: evaluation.Result, /) -> None:
    """An `OnEvaluation` that does nothing."""
