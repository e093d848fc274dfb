"""How well a model predicts answers, given their prompts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import data, model, sharding
from gptjax.evaluation import bars


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completions:
    """What a model makes of the answers to prompts, and how that was measured."""

    nll_sum: float
    """The negative log-likelihood of all predicted tokens together, in nats."""
    predicted: int
    """Tokens of answers, their ends included; prompts are read and not predicted."""
    tokens: int
    """Those of prompts and answers together."""
    examples: int
    cut: int
    """How many of the examples lost their end."""
    left_out: int
    """How many more there are, of whose answers nothing was left."""
    longest: int
    """The most tokens that were read of an example."""
    dtype: str
    """Of the computation."""
    text: str
    """What the examples are called."""

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of a predicted token, in nats."""
        return self.nll_sum / self.predicted

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.loss))

    def figures(self) -> dict[str, float]:
        """The numbers that a run follows, the first above all."""
        return {"perplexity": self.perplexity, "loss": self.loss}

    def to_json(self) -> dict[str, Any]:
        """Figures and protocol, as reports keep them."""
        return {**self.figures(), "protocol": self.protocol()}

    def protocol(self) -> str:
        """One line with everything that the number depends on but the model."""
        cut = f", {self.cut:,} of them cut" if self.cut else ""
        left_out = f", {self.left_out:,} more left out" if self.left_out else ""
        return (
            f"{self.text}, {self.examples:,} examples of at most {self.longest} tokens"
            f"{cut}{left_out}, none seeing another, {self.predicted:,} of "
            f"{self.tokens:,} tokens predicted, those of answers and their ends, "
            f"{self.dtype}"
        )


def complete(
    config: model.Config,
    params: Any,
    instructions: data.Instructions,
    *,
    sequence_tokens: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> Completions:
    """How well a model predicts the answers of instructions.

    Examples are packed as in training, which changes no loss: each sees itself alone.

    Args:
      params: of any floating dtype; on the devices of `mesh`, where one is given.
      instructions: none longer than a sequence.
      sequence_tokens: of a packed sequence.
      batch_sequences: read at once; on a mesh, rounded up to what divides over its
        `data` and `fsdp` axes.
      progress: whether to draw a progress bar on stderr.
    """
    if mesh is not None:
        batch_sequences = sharding.rounded_up(mesh, batch_sequences)
    sequences = data.fit_in(instructions.lengths, sequence_tokens)
    sequences += [[]] * (-len(sequences) % batch_sequences)
    begins = range(0, len(sequences), batch_sequences)
    nll_sum, predicted = 0.0, 0
    for begin in bars.track(begins, total=len(begins)) if progress else begins:
        batch = data.lay_out(
            instructions,
            sequences[begin : begin + batch_sequences],
            sequence_tokens=sequence_tokens,
        )
        is_predicted_BT = batch["labels"][:, 1:] != data.IGNORED
        placed = batch["tokens"], batch["segments"]
        if mesh is not None:
            rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
            placed = sharding.place(placed, (rows, rows))
        nll_BT = np.asarray(_nll(config, params, *placed, dtype=dtype, mesh=mesh))
        nll_sum += nll_BT.sum(where=is_predicted_BT, dtype=np.float64)
        predicted += int(is_predicted_BT.sum())
    return Completions(
        nll_sum=float(nll_sum),
        predicted=predicted,
        tokens=int(instructions.lengths.sum()),
        examples=len(instructions),
        cut=instructions.cut,
        left_out=instructions.left_out,
        longest=sequence_tokens,
        dtype=jnp.dtype(dtype).name,
        text=instructions.name,
    )


@functools.partial(jax.jit, static_argnames=("config", "dtype", "mesh"))
def _nll(config, params, tokens_BT, segments_BT, *, dtype, mesh):
    """The negative log-likelihood of each token but the first, (B, T - 1) float32."""
    compute = model.Compute(dtype=dtype, mesh=mesh)
    x_BTD = model.hidden(
        config, params, tokens_BT, compute=compute, segments_BT=segments_BT
    )
    next_BT = jnp.roll(tokens_BT, -1, axis=1)
    nll_BT = model.token_losses(config, params, x_BTD, next_BT, compute=compute)
    nll_BT = nll_BT[:, :-1]
    if mesh is not None:
        # Whole on every host, so that each can sum it.
        whole = sharding.replicated(mesh)
        nll_BT = jax.lax.with_sharding_constraint(nll_BT, whole)
    return nll_BT
