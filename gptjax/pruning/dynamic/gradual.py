"""Gradual pruning: a sparsity that rises while the model trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax import masks, training
from gptjax.pruning import ranking, selection
from gptjax.pruning.dynamic import times as times_lib
from gptjax.training.step import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradual:
    """Prunes a little more at each of its times, fast at first, slowly at last.

        s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^3

    from t_0, the first time, to t_n, the last, when it is s_f. What is pruned stays
    pruned.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for
    model compression", 2017, arXiv:1710.01878.

    Attributes:
      initial, final: s_i and s_f.
      scores: a tree like params from the state and the batch that was learned from;
        the lowest are pruned.
      scope: which are ranked together, as in `config.Pruning`.
      sparsities_for: what `selection.select` takes, for a sparsity of the whole.
    """

    times: times_lib.Times
    initial: float
    final: float
    scores: Callable[[training.TrainState, Batch], Any]
    scope: str
    sparsities_for: Callable[[float], ranking.PerLayer | float]

    def is_due(self, step: int) -> bool:
        """At each of its times, the first and the last too."""
        return self.times.is_one(step)

    def sparsity(self, step: int) -> float:
        """s_t at one of its times."""
        first, last = self.times.first, self.times.last
        left = 1 - (step - first) / (last - first)
        return self.final + (self.initial - self.final) * left**3

    def update(self, state: training.TrainState, batch: Batch) -> masks.Masks:
        """Masks nested in the state's, of the sparsity of its step."""
        return selection.select(
            self.scores(state, batch),
            state.masks,
            pattern="unstructured",
            scope=self.scope,
            sparsities=self.sparsities_for(self.sparsity(int(state.step))),
        )
