"""The collectives of a compiled program: their kinds, and the bytes that they send."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from gptjax.planning import hlo

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
# A TPU spreads a collective over several fusions; this marks where it begins.
_BEGINS = "AsyncCollectiveStart"
_BETWEEN_SLICES = r'_xla_megascale_transfer_type="(\w+)"'
_SPREAD = "async_collective_fusion_config"


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of a step, as one device sees it.

    Attributes:
      kind: one of `KINDS`.
      times: how often it runs in a step.
      operand_bytes: what a device puts in each time.
      group: how many devices take part.
      nodes: over how many nodes (hosts or slices) these lie.
    """

    kind: str
    times: int
    operand_bytes: int
    group: int
    nodes: int = 1

    @property
    def sent_bytes(self) -> float:
        """What a device sends in a step, as on a ring, which no algorithm undercuts."""
        return self.times * sent(self.kind, self.operand_bytes, self.group)

    @property
    def network_bytes(self) -> float:
        """The part of it that leaves its node, where the nodes' devices share that.

        Within a node first, over the network then, as NCCL and Megascale do.
        """
        if self.nodes == 1:
            return 0.0
        if self.kind == "collective-permute":
            return self.sent_bytes
        inside = self.group // self.nodes
        # What was put together within a node is sent on once, a share by each device.
        share = self.operand_bytes
        if self.kind in ("all-reduce", "reduce-scatter"):
            share /= inside
        return self.times * sent(self.kind, share, self.nodes)


def sent(kind: str, operand_bytes: float, group: int) -> float:
    """Bytes that a device sends for a collective over `group` devices.

    Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication
    Operations in MPICH", 2005: with n devices and s bytes put in by each, (n - 1) s for
    an all-gather, (n - 1) / n s for a reduce-scatter and an all-to-all, both of the
    latter's cost, 2 (n - 1) / n s, for an all-reduce.
    """
    if kind == "collective-permute":
        return operand_bytes
    factor = {
        "all-gather": group - 1,
        "reduce-scatter": (group - 1) / group,
        "all-to-all": (group - 1) / group,
        "all-reduce": 2 * (group - 1) / group,
    }[kind]
    return factor * operand_bytes


def count(module: hlo.Module, nodes: Sequence[int] = ()) -> list[Collective]:
    """The collectives of a program, those in loops multiplied by their turns.

    Args:
      nodes: of each device of the mesh, in its order, the node that it belongs to;
        empty: all to one.
    """
    found = []
    for executed in module.executed:
        parts = module.parts(executed.instruction, executed.computation)
        for instruction, within in parts:
            if _goes_on(instruction, within):
                continue
            kind = _kind(instruction, within)
            if kind is None:
                continue
            if instruction.opcode == "send":
                group = crossed = len(set(nodes))
            else:
                group, crossed = _group(instruction, nodes)
            if group == 1:
                continue
            operand = sum(
                shape.bytes
                for each in within.operands(instruction)
                for shape in each.shapes
            )
            found.append(Collective(kind, executed.times, operand, group, crossed))
    return found


def _goes_on(instruction: hlo.Instruction, within: hlo.Computation) -> bool:
    """Whether it only continues a collective that began in another fusion."""
    if _SPREAD not in instruction.attributes:
        return False
    return not any(_BEGINS in i.attributes for i in within.instructions.values())


def _kind(instruction: hlo.Instruction, within: hlo.Computation) -> str | None:
    # What TPUs of one slice send to others.
    between = instruction.attribute(_BETWEEN_SLICES)
    if instruction.opcode == "send" and between is not None:
        kind = between.lower().replace("_", "-")
        return kind if kind in KINDS else "collective-permute"
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    if kind == "all-reduce" and within.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind


def _group(instruction: hlo.Instruction, nodes: Sequence[int]) -> tuple[int, int]:
    """How many devices a collective joins, and over how many nodes they lie."""
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", instruction.attributes)
    if pairs is not None:
        found = np.asarray(
            [pair.split(",") for pair in re.findall(r"\{([\d,]+)\}", pairs[1])], int
        )
        groups = found[found[:, 0] != found[:, 1]]
        if not len(groups):
            return 1, 1
    else:
        groups = _groups(instruction.attributes, max(len(nodes), 1))
    crossed = 1
    if len(nodes):
        crossed = max(len({nodes[device] for device in group}) for group in groups)
    return len(groups[0]), crossed


def _groups(attributes: str, devices: int) -> np.ndarray | list[list[int]]:
    """Which devices are joined, from any of the ways that XLA writes it."""
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
    if listed is not None:
        each = re.findall(r"\{([\d,]+)\}", listed[1])
        if not each:
            return [list(range(devices))]
        return [[int(device) for device in group.split(",")] for group in each]
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    )
    if iota is not None:
        return _iota(*iota.groups()).reshape(_integers(iota[1]))
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\]"
        r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}",
        attributes,
    )
    if mesh is None:
        return [[0]]
    axes, dims, order, joined = mesh.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = np.arange(np.prod(list(sizes.values()), dtype=int))
    if dims is not None:
        ids = _iota("", dims, order).reshape(-1)
    return _along(ids, sizes, joined)


def _along(ids: np.ndarray, sizes: dict[str, int], joined: str) -> np.ndarray:
    """Groups of the devices that differ in the named axes only.

    `'a':(2)4` is a part of an axis: of its digits, those after a major one of size 2.
    """
    shape, places, at = [], {}, 0
    parts = {
        name: (int(before or 1), int(size)) if size else (1, sizes[name])
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", joined)
    }
    for name, size in sizes.items():
        before, wanted = parts.get(name, (1, 1))
        shape += [before, wanted, size // (before * wanted)]
        if name in parts:
            places[name] = at + 1
        at += 3
    inside = [places[name] for name in parts]
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    width = int(np.prod([shape[axis] for axis in inside], dtype=int))
    return ids.reshape(shape).transpose(outside + inside).reshape(-1, width)


def _iota(_: str, dims: str, order: str | None) -> np.ndarray:
    shape = _integers(dims)
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return ids if order is None else ids.transpose(_integers(order))


def _integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def by_kind(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """Of each kind that occurs: how many run, and the bytes that a device sends."""
    table = {}
    for kind in KINDS:
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            table[kind] = {
                "count": sum(each.times for each in of_kind),
                "sent_bytes": sum(each.sent_bytes for each in of_kind),
                "network_bytes": sum(each.network_bytes for each in of_kind),
            }
    return table
