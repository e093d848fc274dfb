"""How much memory calibration will take, told before it starts; and giving it back."""

import ctypes
import dataclasses
import math
import sys
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gptjax import masks, model, tree
from gptjax.pruning import matrices


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes, over all devices together, beside what Python and XLA take themselves.

    Attributes:
      weights: of the whole model, as it lies there already.
      activations: what enters one block; twice that with reconstruction, which
        follows the dense model too. Of one batch, or of all sequences where the model
        is read block by block.
      statistics: norms, or Hessians, of one block; gradients and scores of the whole
        model where they are held at once.
      workspace: the largest of what passing a batch through a block (or back through
        it), its logits, pruning a kernel and training a block take at a time.
      masks: the bits of all masks, and a kernel's bool mask; where all is ranked at
        once, bool masks of all weights before and after.
    """

    weights: int
    activations: int
    statistics: int
    workspace: int
    masks: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return sum(dataclasses.astuple(self))

    def line(self) -> str:
        """One line for a person."""
        parts = ", ".join(
            f"{name} {_readable(size)}"
            for name, size in dataclasses.asdict(self).items()
            if size
        )
        return f"calibration will take about {_readable(self.total)}: {parts}"

    def tell(self) -> None:
        """Prints the line on stderr; of several processes only the first does."""
        if jax.process_index() == 0:
            print(self.line(), file=sys.stderr, flush=True)


def _readable(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 10**3:.0f} kB"


def estimate(
    config: model.Config,
    params: Any,
    prunable: Iterable[str],
    *,
    sequences: int,
    sequence_tokens: int,
    batch_sequences: int,
    criterion: str | None,
    reconstructs: bool,
    dtype: Any = jnp.float32,
) -> Estimate:
    """What pruning block by block takes, from shapes alone.

    Args:
      params: arrays or shapes.
      prunable: slash paths of the leaves that are pruned.
      sequences: N.
      criterion: `wanda`, `sparsegpt`, or None, as in `blockwise.prune`.
    """
    flat = tree.flatten(params)
    views = {p: matrices.shape(p, flat[p].shape) for p in prunable}
    block = sum(
        _bytes(leaf) // config.n_layer
        for p, leaf in flat.items()
        if masks.is_stacked(p)
    )
    kernels = [4 * inputs * outputs for _, inputs, outputs in views.values()]
    squares = [4 * inputs**2 for _, inputs, _ in views.values()]
    # Scores or new weights, and what they are computed from.
    statistics, summing, solving = 0, 0, 4 * max(kernels)
    if criterion == "wanda":
        statistics = sum(4 * inputs for _, inputs, _ in views.values())
    elif criterion == "sparsegpt":
        statistics = sum(squares)
        # One Hessian more while a batch's is added, and beside its factor.
        summing = max(squares)
        solving = max(solving, max(squares) + max(kernels))
    size = jnp.dtype(dtype).itemsize
    passing = _passing(config, batch_sequences, sequence_tokens, size)
    # The block before and after a step, its gradient, an update, two moments.
    training = 6 * block + 3 * passing if reconstructs else 0
    weights_in_bits = sum(math.prod(shape) for shape in views.values())
    return Estimate(
        weights=sum(_bytes(leaf) for leaf in flat.values()),
        activations=(1 + reconstructs)
        * sequences
        * sequence_tokens
        * config.n_embd
        * size,
        statistics=statistics,
        workspace=max(block + summing + passing, solving, training),
        masks=weights_in_bits // 8 + max(kernels) // 4,
    )


def estimate_at_once(
    config: model.Config,
    params: Any,
    prunable: Iterable[str],
    *,
    sequences: int,
    sequence_tokens: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
) -> Estimate:
    """What scoring all weights by the norms of their inputs takes: `norms`, then Wanda.

    Args:
      as for `estimate`.
    """
    prunable = list(prunable)
    of_a_block = estimate(
        config,
        params,
        prunable,
        sequences=sequences,
        sequence_tokens=sequence_tokens,
        batch_sequences=batch_sequences,
        criterion="wanda",
        reconstructs=False,
        dtype=dtype,
    )
    weights = _weights(params, prunable)
    return dataclasses.replace(
        of_a_block,
        statistics=config.n_layer * of_a_block.statistics + 4 * weights,
        masks=2 * weights,
    )


def estimate_batches(
    config: model.Config,
    params: Any,
    prunable: Iterable[str] = (),
    *,
    sequence_tokens: int,
    batch_sequences: int,
    read: Literal["activations", "loss", "gates", "weights"],
    dtype: Any = jnp.float32,
) -> Estimate:
    """What scoring takes for which batches pass through the whole model.

    Args:
      params: arrays or shapes.
      prunable: slash paths of the leaves that masks are chosen of, if any.
      read: what scores come from: activations as they pass, the loss, or its gradient
        by gates on the activations or by all weights.
    """
    size = jnp.dtype(dtype).itemsize
    tokens = batch_sequences * sequence_tokens
    workspace = _passing(config, batch_sequences, sequence_tokens, size)
    if read != "activations":
        workspace = max(workspace, 4 * tokens * config.vocab_size)
    has_gradients = read in ("gates", "weights")
    weights = sum(_bytes(leaf) for leaf in tree.flatten(params).values())
    return Estimate(
        weights=weights,
        # The inputs of all blocks are kept for the way back, where each is recomputed.
        activations=(config.n_layer if has_gradients else 1)
        * tokens
        * config.n_embd
        * size,
        # Summed gradients and a batch's, which the scores replace.
        statistics=2 * weights if read == "weights" else 0,
        workspace=(1 + has_gradients) * workspace,
        masks=2 * _weights(params, prunable),
    )


def _passing(
    config: model.Config, batch_sequences: int, sequence_tokens: int, size: int
) -> int:
    """Bytes that a batch takes while it passes through a block."""
    tokens = batch_sequences * sequence_tokens
    scores = batch_sequences * config.n_head * sequence_tokens**2 * 4
    hidden = (3 if config.gated_mlp else 2) * config.mlp_width
    return tokens * (8 * config.n_embd + hidden) * size + 2 * scores


def _weights(params: Any, prunable: Iterable[str]) -> int:
    flat = tree.flatten(params)
    return sum(math.prod(flat[path].shape) for path in prunable)


def _bytes(leaf: jax.Array | jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def give_back() -> None:
    """Returns freed memory to the system, where the C library can be told to.

    glibc keeps what was freed in pieces of less than 32 MB, as kernels and Hessians
    are: hundreds of MB in the course of a block.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
