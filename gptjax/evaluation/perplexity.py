"""Perplexity under a pinned protocol.

A perplexity means nothing without its context, its stride and the tokens it was
taken over, so the result carries them and can say them in one line.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import errors, model, sharding
from gptjax.evaluation import bars, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity:
    """What a model makes of a text, and how that was measured."""

    nll_sum: float
    """The negative log-likelihood of all predicted tokens together, in nats."""
    tokens: int
    """Tokens in the text."""
    predicted: int
    """Tokens predicted; the first of the text (of each window, where windows do not
    overlap) has nothing before it."""
    context: int
    stride: int
    dtype: str
    """Of the computation."""
    total_bytes: int | None = None
    """UTF-8 bytes in the text."""
    text: str | None = None
    """What the text is called."""

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of a predicted token, in nats."""
        return self.nll_sum / self.predicted

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.loss))

    @property
    def tokens_per_byte(self) -> float | None:
        """How many tokens the tokenizer makes of a byte; None if bytes are unknown."""
        return None if self.total_bytes is None else self.tokens / self.total_bytes

    @property
    def bytes_per_token(self) -> float | None:
        """How many bytes a token stands for; None if bytes are unknown."""
        return None if self.total_bytes is None else self.total_bytes / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits for a byte of text, which compares across tokenizers.

        Tokens that no window predicted count with the mean loss of the others. None
        if bytes are unknown.
        """
        if self.total_bytes is None:
            return None
        return self.loss * self.tokens_per_byte / math.log(2)

    def figures(self) -> dict[str, float]:
        """The numbers that a run follows, the first above all."""
        return {"perplexity": self.perplexity, "loss": self.loss}

    def to_json(self) -> dict[str, Any]:
        """Figures and protocol, as reports keep them."""
        return {**self.figures(), "protocol": self.protocol()}

    def protocol(self) -> str:
        """One line with everything that the number depends on but the model."""
        return (
            f"{self.text or 'text'}, context {self.context}, stride {self.stride}, "
            f"{self.predicted:,} of {self.tokens:,} tokens predicted, {self.dtype}"
        )


def perplexity(
    config: model.Config,
    params: Any,
    ids_N: np.ndarray,
    *,
    context: int,
    stride: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    total_bytes: int | None = None,
    text: str | None = None,
    progress: bool = False,
) -> Perplexity:
    """How well a model predicts a text, read in windows of `context` tokens.

    Compiles once for a config, a batch shape, a dtype and a mesh, however often it
    is called. Losses of single tokens are summed on the host in float64, so that the
    result hardly depends on `batch_sequences` or on the mesh.

    Args:
      params: of any floating dtype; on the devices of `mesh`, where one is given.
      ids_N: the text's token ids, in memory or memory-mapped.
      context: tokens in a window, at most n_positions.
      stride: tokens between the starts of windows, at most `context`. Equal to it,
        windows do not overlap; smaller, tokens are predicted from longer contexts at
        more cost.
      batch_sequences: windows read at once; on a mesh, rounded up to what divides
        over its `data` and `fsdp` axes.
      total_bytes: the text's length in bytes, for the figures per byte.
      text: what the text is called, for the protocol.
      progress: whether to draw a progress bar on stderr.

    Raises:
      UserError: windows that do not fit the model or each other, a text of fewer
        than 2 tokens, a token id beyond the vocabulary.
    """
    tokens = len(ids_N)
    windows.check(
        context=context, stride=stride, n_positions=config.n_positions, tokens=tokens
    )
    lowest, highest = int(np.min(ids_N)), int(np.max(ids_N))
    if lowest < 0 or highest >= config.vocab_size:
        raise errors.UserError(
            f"the text holds token id {lowest if lowest < 0 else highest}, beyond the "
            f"model's vocab_size {config.vocab_size}"
        )
    if batch_sequences < 1:
        raise errors.UserError(f"batch_sequences {batch_sequences}: at least 1")
    if mesh is not None:
        batch_sequences = sharding.rounded_up(mesh, batch_sequences)

    bounds_W3 = windows.bounds(tokens, context=context, stride=stride)
    batches = windows.batches(
        ids_N, bounds_W3, context=context, sequences=batch_sequences
    )
    if progress:
        batches = bars.track(batches, total=-(-len(bounds_W3) // batch_sequences))
    nll_sum = 0.0
    for tokens_BT, is_predicted_BT in batches:
        if mesh is not None:
            rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
            tokens_BT = sharding.place(tokens_BT, rows)
        # Waiting for each batch keeps the activations of no more than one in memory.
        nll_BT = np.asarray(_nll(config, params, tokens_BT, dtype=dtype, mesh=mesh))
        nll_sum += nll_BT.sum(where=is_predicted_BT[:, 1:], dtype=np.float64)
    return Perplexity(
        nll_sum=float(nll_sum),
        tokens=tokens,
        predicted=int((bounds_W3[:, 1] - bounds_W3[:, 2]).sum()),
        context=context,
        stride=stride,
        dtype=jnp.dtype(dtype).name,
        total_bytes=total_bytes,
        text=text,
    )


@functools.partial(jax.jit, static_argnames=("config", "dtype", "mesh"))
def _nll(config, params, tokens_BT, *, dtype, mesh):
    """The negative log-likelihood of each token but the first, (B, T - 1) float32."""
    compute = model.Compute(dtype=dtype, mesh=mesh)
    x_BTD = model.hidden(config, params, tokens_BT, compute=compute)
    next_BT = jnp.roll(tokens_BT, -1, axis=1)
    nll_BT = model.token_losses(config, params, x_BTD, next_BT, compute=compute)
    nll_BT = nll_BT[:, :-1]
    if mesh is not None:
        # Whole on every host, so that each can sum it.
        whole = sharding.replicated(mesh)
        nll_BT = jax.lax.with_sharding_constraint(nll_BT, whole)
    return nll_BT
