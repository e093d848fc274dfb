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
      backward pass, in each part of a batch; embeddings over `tensor` too.
    - gradients: each is summed over all that share a batch, `data`, `fsdp` and
      `context`; at worst in one all-reduce after the other, `context` by itself. That
      of a tied embedding comes from the look-up and from the head.
    - embeddings: their width is split over `fsdp` and `tensor`, so the embedded tokens
      are moved to where the sequences are, and their gradients back.
    - activations: over `tensor`, attention and MLP each end in a sum, forward, backward
      and where the forward pass is repeated.
    - keys and values: over `context` they are gathered forward, backward and where the
      forward pass is repeated, and their gradients are summed.
    - scalars: the loss, norms, and what accumulation steps add up.
    """
    axes = {axis: sizes.mesh.get(axis, 1) for axis in sharding.AXES}
    data, fsdp, context, tensor = (axes[name] for name in sharding.AXES)
    devices = math.prod(axes.values())
    if devices == 1:
        return []
    kernels = embeddings = vectors = 0
    flat = tree.flatten(sizes.params)
    for path, leaf in flat.items():
        elements = math.prod(leaf.shape)
        if path.endswith("kernel"):
            kernels += elements
        elif path.endswith("embedding"):
            embeddings += elements
        else:
            vectors += elements
    tied = not any(path.startswith("head/") for path in flat)
    parts, width, split = sizes.parts, sizes.compute_bytes, fsdp * tensor
    stream = sizes.tokens * sizes.width
    summed = (
        _share(fsdp) * kernels / tensor
        + (_share(data) + _share(context)) * kernels / split
        + (_share(data * split) + _share(context)) * embeddings
        + tied * _share(devices) * embeddings
        + (_share(data * fsdp) + _share(context)) * vectors
    )
    needs = [
        Need("gradients", _SUMS, parts * 2 * 4 * summed),
        Need("scalars", _SUMS, 2 * 4 * 8 * (len(flat) + parts)),
    ]
    if split > 1:
        gathered = _share(fsdp) * kernels / tensor + _share(split) * embeddings
        moved = 2 * 4 * stream * (1 + _share(split))
        needs += [
            Need("weights", _MOVES, parts * 2 * width * gathered),
            Need("embeddings", _MOVES, parts * moved),
            Need("token ids", _MOVES, parts * 4 * sizes.tokens * split),
        ]
    if tensor > 1:
        sums = 6 * sizes.layers * 2 * 4 * _share(tensor) * stream
        needs.append(Need("activations", _SUMS, parts * sums))
    if context > 1:
        both = 2 * sizes.layers * (context - 1) * stream / tensor
        needs += [
            Need("keys and values", _MOVES, parts * 3 * width * both),
            Need("their gradients", _SUMS, parts * 2 * 4 * both),
        ]
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
