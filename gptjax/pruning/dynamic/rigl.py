"""RigL: the smallest survivors make room for the weights that the loss asks for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import masks, training
from gptjax.pruning.criteria import magnitude
from gptjax.pruning.dynamic import exchange
from gptjax.pruning.dynamic import times as times_lib
from gptjax.training.step import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigL:
    """Exchanges survivors by magnitude and gradient, in each layer on its own.

        k = f(t) (survivors of the layer),  f(t) = alpha / 2 (1 + cos(pi t / T_end))
        I_drop = the k survivors of the least |w|
        I_grow = the k of the largest |dL/dw| among those not in (survivors \\ I_drop)

    k rounded down. dL/dw is the dense gradient, of pruned weights too, over the batch
    that the last step learned from, without dropout, at the weights after that step.
    (The authors skip the step whose batch the exchange takes.)

    As in Algorithm 1, what was just dropped may grow again; it has then neither lost
    its value nor the optimizer's moments, as in the authors' code. What newly grows
    starts at 0. A layer without pruned weights is left as it is.

    Evci, Gale, Menick, Castro and Elsen, "Rigging the Lottery: Making All Tickets
    Winners", 2019, arXiv:1911.11134.

    Attributes:
      times: its `last` is T_end; nothing is exchanged then, nor at step 0.
      drop_fraction: alpha.
      gradients: a tree like params, from params and a batch.
    """

    times: times_lib.Times
    drop_fraction: float
    gradients: Callable[[Any, Batch], Any]

    def is_due(self, step: int) -> bool:
        """At each of its times before the last."""
        return self.times.is_inner(step)

    def fraction(self, step: int) -> float:
        """f(t), the fraction of survivors to be exchanged."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * step / self.times.last))

    def update(self, state: training.TrainState, batch: Batch) -> masks.Masks:
        """Masks with as many survivors in each layer as the state's."""
        return exchange.exchange(
            state.masks,
            exchange.counts(state.masks, self.fraction(int(state.step))),
            drop=magnitude.scores(state.params),
            grow=_largest_first(self.gradients(state.params, batch)),
        )


@jax.jit
def _largest_first(gradients: Any) -> Any:
    return jax.tree.map(lambda grad: -jnp.abs(grad), gradients)
