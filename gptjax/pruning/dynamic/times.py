"""At which steps masks change."""

import dataclasses

from gptjax import config


@dataclasses.dataclass(frozen=True)
class Times:
    """Steps `first`, `first + every` and so on, up to `last`; `last` is one of them."""

    first: int
    last: int
    every: int

    def is_one(self, step: int) -> bool:
        """Whether `step` is one of them."""
        is_regular = (step - self.first) % self.every == 0
        return self.first <= step <= self.last and (is_regular or step == self.last)

    def is_inner(self, step: int) -> bool:
        """Whether `step` is one of them, but neither 0 nor the last."""
        return 0 < step < self.last and self.is_one(step)


def of(settings: config.Run) -> Times:
    """The times that a config asks for."""
    assert settings.pruning is not None
    updates = settings.pruning.updates
    last = updates.last_step or max(3 * settings.training.steps // 4, 1)
    return Times(updates.first_step, last, updates.every_steps)
