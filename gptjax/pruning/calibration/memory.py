"""How much memory calibration will take, told before it starts; and giving it back."""

import ctypes
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import masks, model, tree
from gptjax.pruning import matrices


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes over all devices together, of a model on one copy of the mesh.

    Attributes:
      weights: of the whole model, as it lies there already.
      activations: what enters one block; twice that with reconstruction, which
        follows the dense model too.
      statistics: norms, or Hessians, of one block.
      workspace: the largest of what passing a batch through a block, solving for a
        kernel and training a block take at a time, beside the block's own copies.
      masks: the bits of all masks, and one block's bool masks.
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
        )
        return f"calibration will take about {_readable(self.total)}: {parts}"


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
      sequences: N, filled up to whole batches.
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
    statistics, solving, summing = 0, 0, 0
    if criterion == "wanda":
        statistics = sum(4 * inputs for _, inputs, _ in views.values())
        solving = 2 * max(kernels)
    elif criterion == "sparsegpt":
        statistics = sum(squares)
        # A Hessian, its factor and the factor's inverse, less the Hessian itself,
        # which stands among the statistics; then the kernel as it is swept.
        solving = max(max(2 * s, 3 * k) for s, k in zip(squares, kernels, strict=True))
        summing = max(squares)
    size = jnp.dtype(dtype).itemsize
    tokens = batch_sequences * sequence_tokens
    scores = batch_sequences * config.n_head * sequence_tokens**2 * 4
    passing = tokens * (8 * config.n_embd + 2 * config.mlp_width) * size + 2 * scores
    training = 3 * passing + 4 * block if reconstructs else 0
    weights_in_bits = sum(math.prod(shape) for shape in views.values())
    return Estimate(
        weights=sum(_bytes(leaf) for leaf in flat.values()),
        activations=(1 + reconstructs)
        * sequences
        * sequence_tokens
        * config.n_embd
        * size,
        statistics=statistics,
        workspace=2 * block + max(solving, summing + passing, training),
        masks=weights_in_bits // 8 + sum(kernels) // 4,
    )


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
