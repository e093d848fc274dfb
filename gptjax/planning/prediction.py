"""Which collectives a training step needs, from its mesh and its sizes alone."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gptjax import sharding, tree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a step's collectives depend on.

    Attributes:
      mesh: the size of each axis.
      params: a tree of shapes.
      layers, width: L and D.
      tokens: of a device in one part of a batch.
      parts: accumulation steps.
      compute_bytes: of a number between the embeddings and the logits.
    """

    mesh: Mapping[str, int]
    params: Any
    layers: int
    width: int
    tokens: int
    parts: int
    compute_bytes: int


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a device sends at most for one purpose, and how.

    Attributes:
      kinds: the collectives that may carry it: XLA chooses.
    """

    purpose: str
    kinds: tuple[str, ...]
    sent_bytes: float


_MOVES = ("all-gather", "all-to-all", "collective-permute")
_SUMS = ("all-reduce", "reduce-scatter")


def predict(sizes: Sizes) -> list[Need]:
    """What a step sends at most, purpose by purpose; nothing on one device.

    - weights: each is gathered whole over `fsdp` for the forward and again for the
      backward pass, in each part of a batch.
    - gradients: each is summed over all that share a batch, `data` and `fsdp`; in two
      all-reduces at worst, over `fsdp` and of what is left over `data`.
    - embeddings: their width is split over `fsdp` and `tensor`, so the embedded tokens
      are moved to where the sequences are, and their gradients back.
    - activations: over `tensor`, attention and MLP each end in a sum, forward, backward
      and where the forward pass is repeated.
    - scalars: the loss, norms, and vectors' gradients.
    """
    axes = {axis: sizes.mesh.get(axis, 1) for axis in sharding.AXES}
    data, fsdp, tensor = axes["data"], axes["fsdp"], axes["tensor"]
    if math.prod(axes.values()) == 1:
        return []
    kernels = embeddings = vectors = 0
    for path, leaf in tree.flatten(sizes.params).items():
        elements = math.prod(leaf.shape)
        if path.endswith("kernel"):
            kernels += elements
        elif path.endswith("embedding"):
            embeddings += elements
        else:
            vectors += elements
    parts, width = sizes.parts, sizes.compute_bytes
    split = fsdp * tensor
    stream = sizes.tokens * sizes.width
    needs = [
        Need(
            "weights",
            _MOVES,
            2 * parts * width * _share(fsdp) * kernels / tensor
            + 2 * parts * width * _share(split) * embeddings,
        ),
        Need(
            "gradients",
            _SUMS,
            parts
            * 4
            * 2
            * (
                _share(fsdp) * kernels / tensor
                + _share(data) * kernels / split
                + _share(data * fsdp * tensor) * embeddings
                + _share(data * fsdp) * vectors
            ),
        ),
    ]
    if split > 1:
        # Of every device of the group, its part of the width.
        needs.append(
            Need("embeddings", _MOVES, parts * 2 * 4 * stream * (1 + _share(split)))
        )
    if tensor > 1:
        sums = 6 * sizes.layers
        needs.append(
            Need("activations", _SUMS, parts * sums * 2 * _share(tensor) * stream * 4)
        )
    leaves = len(tree.flatten(sizes.params))
    needs.append(Need("scalars", _SUMS, 2 * 4 * (8 * leaves + 8 * parts)))
    needs.append(Need("token ids", _MOVES, parts * 4 * sizes.tokens * split))
    return [need for need in needs if need.sent_bytes]


def _share(devices: int) -> float:
    """What a device does not hold itself of something split over so many."""
    return (devices - 1) / devices


def limits(needs: list[Need]) -> dict[tuple[str, ...], float]:
    """The most that kinds of collectives may send together."""
    found: dict[tuple[str, ...], float] = {}
    for need in needs:
        found[need.kinds] = found.get(need.kinds, 0.0) + need.sent_bytes
    return found


def sent_bytes(sizes: Sizes) -> float:
    """All of it, as an estimate of a step's communication."""
    return sum(need.sent_bytes for need in predict(sizes))
