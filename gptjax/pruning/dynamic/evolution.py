"""SET, sparse evolutionary training: the smallest survivors give way to chance."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax import masks, training
from gptjax.pruning.criteria import magnitude
from gptjax.pruning.dynamic import exchange
from gptjax.pruning.dynamic import times as times_lib
from gptjax.training.step import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evolution:
    """Exchanges survivors by magnitude and at random, in each layer on its own.

        k = zeta (survivors of the layer), rounded down, the same each time
        the k survivors closest to zero go, k random ones of those not alive come

    The paper drops a fraction zeta of the positive weights and zeta of the negative
    ones; here the two are ranked together, as Evci et al. (arXiv:1911.11134) do in
    their comparison, and a weight that is still 0 since it grew has no sign to lose.
    What was just dropped may come again, and has then not changed. What newly grows
    starts at 0, where the paper draws it at random.

    Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive
    Sparse Connectivity inspired by Network Science", 2018, arXiv:1707.04780.

    Attributes:
      times: nothing is exchanged at the last, nor at step 0.
      drop_fraction: zeta.
      numbers: a tree like params of random numbers for a step.
    """

    times: times_lib.Times
    drop_fraction: float
    numbers: Callable[[int], Any]

    def is_due(self, step: int) -> bool:
        """At each of its times before the last."""
        return self.times.is_inner(step)

    def update(self, state: training.TrainState, batch: Batch) -> masks.Masks:
        """Masks with as many survivors in each layer as the state's."""
        del batch
        return exchange.exchange(
            state.masks,
            exchange.counts(state.masks, self.drop_fraction),
            drop=magnitude.scores(state.params),
            grow=self.numbers(int(state.step)),
        )
