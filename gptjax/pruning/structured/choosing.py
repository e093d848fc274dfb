"""What a round removes: scores on the calibration sequences, and the lowest go."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from gptjax import errors
from gptjax.pruning import calibration
from gptjax.pruning.structured import activation, leave_out, magnitude, plan, taylor


@dataclasses.dataclass(frozen=True)
class Choice:
    """What stays.

    Attributes:
      kept: what -> the indices that stay, rising: (n,) of `layers` and `width`,
        (L, n) of `neurons` and `heads`.
      scores: what -> the numbers that they were chosen by, one for each that was
        there; of layers by `loss`, for each that goes the losses without each layer.
    """

    kept: dict[str, np.ndarray]
    scores: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reader:
    """How the calibration sequences are read.

    Attributes:
      tokens_NT: the sequences; None where nothing needs to be read.
    """

    tokens_NT: np.ndarray | None
    batch_sequences: int
    mesh: Mesh


def needs_text(this: plan.Round) -> bool:
    """Whether the round's choice depends on a text."""
    by = this.removal.measure
    return this.removal.indices is None and by != "magnitude"


def tell_memory(this: plan.Round, params: Any, reader: Reader) -> None:
    """Prints how much memory the scores will take, where a text is read for them."""
    if not needs_text(this):
        return
    by = this.removal.measure
    calibration.estimate_batches(
        this.before,
        params,
        sequence_tokens=reader.tokens_NT.shape[1],
        batch_sequences=reader.batch_sequences,
        read={"loss": "loss", "taylor": "gates"}.get(by, "activations"),
    ).tell()


def choose(this: plan.Round, params: Any, reader: Reader) -> Choice:
    """The choice of a round.

    Ties go by index: of equal scores the lowest index is removed first.

    Args:
      params: float32 params of `this.before`, on the mesh; pruned weights are 0.

    Raises:
      UserError: a score that is not a number.
    """
    there = this.before.n_layer
    if this.removal.indices is not None:
        gone = np.asarray(this.removal.indices)
        return Choice({"layers": np.setdiff1d(np.arange(there), gone)}, {})
    if this.removal.measure == "loss":
        dropped, losses = leave_out.greedy(
            this.before, params, count=this.drop["layers"], **_options(reader)
        )
        return Choice(
            {"layers": np.setdiff1d(np.arange(there), dropped)}, {"layers": losses}
        )
    scores = {
        what: _scores(what, this.removal.measure, this, params, reader)
        for what in this.drop
    }
    for what, numbers in scores.items():
        if np.isnan(numbers).any():
            raise errors.UserError(
                f"pruning.structured.{this.number - 1}: the scores of {what} hold a "
                "NaN; nothing was removed"
            )
    kept = {what: highest(scores[what], drop=n) for what, n in this.drop.items()}
    return Choice(kept, {what: numbers.tolist() for what, numbers in scores.items()})


def highest(scores: np.ndarray, *, drop: int) -> np.ndarray:
    """The indices along the last axis, rising, without those of the `drop` lowest."""
    order = np.argsort(scores, axis=-1, kind="stable")
    return np.sort(order[..., drop:], axis=-1)


def _scores(
    what: str, measure: str, this: plan.Round, params: Any, reader: Reader
) -> np.ndarray:
    if measure == "magnitude":
        by_weights = {"neurons": magnitude.neurons, "heads": magnitude.heads}
        return by_weights[what](params)
    if measure == "taylor":
        return taylor.scores(what, this.before, params, **_options(reader))
    by_activation = {
        "layers": activation.influence,
        "neurons": activation.neurons,
        "heads": activation.heads,
        "width": activation.width,
    }
    return by_activation[what](this.before, params, **_options(reader))


def _options(reader: Reader) -> dict[str, Any]:
    return {
        "tokens_NT": reader.tokens_NT,
        "batch_sequences": reader.batch_sequences,
        "mesh": reader.mesh,
    }
