"""Which rounds a run has: their sparsities and their places in the schedule."""

import dataclasses

from gptjax import config
from gptjax.pruning import round_report


@dataclasses.dataclass(frozen=True)
class Round:
    """One round: the sparsity it trains at, from and to which step of the schedule.

    Attributes:
      sparsity: None where masks are given and bring their own.
    """

    number: int
    sparsity: float | None
    start: int
    end: int

    @property
    def name(self) -> str:
        """The round's number as its folders are called."""
        return round_report.name(self.number)


def phases(settings: config.Run) -> int:
    """How often a run is measured: once, or in each round, the dense one too."""
    pruning = settings.pruning
    if pruning is None:
        return 1
    return 1 + max(len(pruning.structured or pruning.targets()), 1)


def rewind_step(pruning: config.Pruning) -> int | None:
    """k where the config says `rewind.to: step:<k>`, else None."""
    kind, _, step = pruning.rewind.to.partition(":")
    return int(step) if kind == "step" else None


def rounds(settings: config.Run) -> tuple[Round, ...]:
    """Round 0, the dense model, and one round for each target sparsity.

    An iterative run trains round 0 as it trains the others; the other schedules prune
    the model as it comes, and round 0 only says how good that is. With
    `rewind.schedule: restart` every round replays the schedule from the step that the
    weights were rewound to, up to `training.steps`. With `continue` one schedule spans
    all rounds, which train as many steps each.
    """
    assert settings.pruning is not None
    steps = settings.training.steps
    targets: tuple[float | None, ...] = settings.pruning.targets() or (None,)
    if settings.pruning.schedule != "iterative":
        return (Round(0, 0.0, 0, 0), Round(1, targets[0], 0, steps))
    first = rewind_step(settings.pruning) or 0
    planned = [Round(0, 0.0, 0, steps)]
    for number, sparsity in enumerate(targets, 1):
        start, end = first, steps
        if settings.pruning.rewind.schedule == "continue":
            start = planned[-1].end
            end = start + steps - first
        planned.append(Round(number, sparsity, start, end))
    return tuple(planned)
