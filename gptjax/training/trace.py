"""Reads which operations took the time from the trace that JAX's profiler wrote."""

import bisect
import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

# They last as long as the operations inside them, which count by themselves.
_CONTAINERS = ("while", "conditional", "call")
_TPU_LINE = "XLA Ops"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a compiled program: all times that it ran.

    Attributes:
      name: XLA's, e.g. `dot_general.7`.
      program: e.g. `jit_step`.
      source: where it comes from, e.g. `jit(step)/jvp(...)/dot_general`; "" where the
        trace does not say.
      seconds: from begin to end, summed. Where operations run at the same time, each
        counts in full; on CPU, waiting for a free core counts too.
      count: how often it ran, over all devices.
    """

    name: str
    program: str
    source: str
    seconds: float
    count: int


class _Program(NamedTuple):
    name: str
    number: str
    instructions: dict[str, tuple[str, str]]
    """The opcode and the source of each operation."""


def operations(path: pathlib.Path) -> list[Operation]:
    """The operations of a trace, the longest first.

    Args:
      path: an `.xplane.pb` file.
    """
    programs = _programs(path.read_bytes())
    seconds, counts = collections.Counter(), collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for key, nanoseconds in _executions(plane):
            seconds[key] += nanoseconds / 1e9
            counts[key] += 1
    found = []
    for key, total in seconds.most_common():
        program, number, name = key
        opcode = source = ""
        # A program that came from the compilation cache has another number in its
        # events, which may be that of some other program here: names go before it.
        for known in sorted(programs, key=lambda known: known.number == number):
            if known.name == program or (not program and known.number == number):
                program = known.name
                opcode, source = known.instructions.get(name, (opcode, source))
        if (opcode or name.split(".")[0]) not in _CONTAINERS:
            found.append(Operation(name, program, source, total, counts[key]))
    return found


def _executions(plane: Any) -> Iterator[tuple[tuple[str, str, str], float]]:
    """Of each execution program, its number, operation; and nanoseconds."""
    begun: list[tuple[tuple[str, str, str], Any, float, float]] = []
    ends = collections.defaultdict(list)
    is_tpu = any(line.name == _TPU_LINE for line in plane.lines)
    for line in plane.lines:
        if is_tpu and line.name != _TPU_LINE:
            continue
        for event in line.events:
            is_end = event.name.startswith("end: ")
            if not is_tpu and not is_end and event.name.startswith("Threadpool"):
                continue  # there are many, and to read one's facts takes long
            facts = dict(event.stats)
            if is_end:
                ends[facts.get("_c")].append(event.start_ns)
            elif is_tpu or "hlo_op" in facts:
                # On TPU an operation is named by its whole text: `%name = f32[...`.
                name = facts.get("hlo_op", event.name.split(" ")[0].lstrip("%"))
                program = str(facts.get("hlo_module", ""))
                key = program, str(facts.get("program_id", "")), str(name)
                begun.append((key, facts.get("_p"), event.start_ns, event.duration_ns))
    for times in ends.values():
        times.sort()
    for key, number, start, duration in begun:
        # On CPU the event is only the handing-over to other threads; another one
        # marks the end of what those do.
        after = ends.get(number, [])
        at = bisect.bisect_left(after, start)
        yield key, after[at] - start if at < len(after) else duration


def _programs(trace: bytes) -> list[_Program]:
    """The programs that a trace tells of.

    `ProfileData` does not show them. They lie in the events' metadata of one plane, as
    serialized `HloProto`s; the numbers are the fields of xplane.proto and hlo.proto.
    """
    programs = []
    for plane in _all(memoryview(trace), 1):
        if _text(plane, 2) != "/host:metadata":
            continue
        for entry in _all(plane, 4):
            event = _first(entry, 2)
            for stat in _all(event, 5):
                # HloProto.hlo_module
                module = _first(_first(stat, 6), 1)
                if len(module):
                    # It is called `name(id)`.
                    name, _, number = _text(event, 2).rstrip(")").rpartition("(")
                    programs.append(_Program(name, number, _instructions(module)))
    return programs


def _instructions(module: memoryview) -> dict[str, tuple[str, str]]:
    return {
        _text(instruction, 1): (
            _text(instruction, 2),
            # OpMetadata.op_name
            _text(_first(instruction, 7), 2),
        )
        for computation in _all(module, 3)
        for instruction in _all(computation, 2)
    }


def _text(message: memoryview, field: int) -> str:
    return bytes(_first(message, field)).decode(errors="replace")


def _first(message: memoryview, field: int) -> memoryview:
    return next(_all(message, field), memoryview(b""))


def _all(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of a field of strings, bytes or messages, in protobuf's encoding."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        field, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
        elif kind == 2:
            size = varint()
            if field == wanted:
                yield message[at : at + size]
            at += size
        else:
            at += {1: 8, 5: 4}[kind]
