"""Linear mode connectivity: whether two models lie in one valley of the loss.

Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", 2020,
arXiv:1912.05671. Two runs from one start that saw other batches end in W1 and W2. With
L(a) the loss of (1 - a) W1 + a W2, the height of the barrier between them, their
instability, is

    max over a of L(a)  -  (L(0) + L(1)) / 2

A barrier near 0 calls the start stable: whatever the batches, training ends in one
valley. Tickets that are stable when they are rewound train as well as the dense model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import errors, model, tree
from gptjax.evaluation.perplexity import perplexity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connectivity:
    """The losses between two models, and the protocol that they were taken by."""

    positions: tuple[float, ...]
    """a, rising from 0, the first model, to 1, the second."""
    losses: tuple[float, ...]
    """Nats a token at each of them."""
    protocol: str
    """One line with everything else that the losses depend on but the models."""

    @property
    def ends(self) -> float:
        """The mean loss of the two models themselves."""
        return (self.losses[0] + self.losses[-1]) / 2

    @property
    def barrier(self) -> float:
        """The highest loss on the way, both ends included, above the ends' mean.

        At least half of the difference between the ends.
        """
        return max(self.losses) - self.ends

    @property
    def highest(self) -> float:
        """The position of the highest loss."""
        return self.positions[int(np.argmax(self.losses))]

    def figures(self) -> dict[str, Any]:
        """All of it, as it stands in JSON."""
        return {
            **dataclasses.asdict(self),
            "ends": self.ends,
            "barrier": self.barrier,
            "highest": self.highest,
        }


def connect(
    config: model.Config,
    first: Any,
    second: Any,
    ids_N: np.ndarray,
    *,
    points: int,
    context: int,
    stride: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    text: str | None = None,
) -> Connectivity:
    """The loss of a text on the straight line between two models.

    Holds one model beside the two. A weight that is 0 in both is 0 on the whole way.

    Args:
      first, second: params of one config, placed alike.
      ids_N: the text's token ids.
      points: how many models on the line are read with, both ends among them; at
        least 3.
      context, stride, batch_sequences, dtype, mesh, text: as for `perplexity`.

    Raises:
      UserError: two models of different shapes, too few points, and what `perplexity`
        raises.
    """
    if points < 3:
        raise errors.UserError(
            f"points {points}: at least 3, the two models and one between them"
        )
    check_alike(first, second)
    positions = np.linspace(0, 1, points)
    results = [
        perplexity(
            config,
            between(first, second, np.float32(position)),
            ids_N,
            context=context,
            stride=stride,
            batch_sequences=batch_sequences,
            dtype=dtype,
            mesh=mesh,
            text=text,
        )
        for position in positions
    ]
    return Connectivity(
        positions=tuple(map(float, positions)),
        losses=tuple(result.loss for result in results),
        protocol=results[0].protocol(),
    )


def check_alike(first: Any, second: Any) -> None:
    """Raises a `UserError` naming a leaf unless params have the same shapes."""
    one, two = tree.flatten(first), tree.flatten(second)
    for path in sorted(one.keys() | two.keys()):
        shapes = [flat[path].shape if path in flat else None for flat in (one, two)]
        if shapes[0] != shapes[1]:
            said = [f"is {shape}" if shape else "is not there" for shape in shapes]
            raise errors.UserError(
                f"{path} {said[0]} in the first model and {said[1]} in another; only "
                "models of the same shapes have something between them"
            )


@jax.jit
def between(first: Any, second: Any, position: jax.Array) -> Any:
    """(1 - a) W1 + a W2 of every weight; at a = 0 and a = 1 the very models.

    Args:
      position: a, from 0 to 1.
    """

    def mix(one, two):
        return ((1 - position) * one + position * two).astype(one.dtype)

    return jax.tree.map(mix, first, second)
