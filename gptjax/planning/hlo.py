"""Compiled programs as XLA prints them: instructions, and how often each is executed.

XLA's own cost analysis counts the body of a loop once, and the model's layers are a
loop; so programs are read here, and loops multiplied out.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(r"(?:branch_computations|true_computation|false_computation)=")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of an array.

    Attributes:
      space: 0 is the device's main memory; others are e.g. a TPU core's own.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Its size, without what a layout in tiles adds."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            found = re.search(r"\d+", self.dtype)
            bits = int(found[0]) if found else 32
        return self.elements * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shapes: of its result; several where that is a tuple.
      operands: names of other instructions of the same computation.
      argument: what stands between the brackets, as printed.
      attributes: what stands after them.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    argument: str
    attributes: str
    is_root: bool

    def called(self, role: str) -> str | None:
        """The computation that it calls as `calls`, `body`, `condition`, `to_apply`."""
        found = dict(_CALLED.findall(self.attributes))
        return found.get(role)

    def attribute(self, pattern: str) -> str | None:
        """The first group of `pattern` in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they are printed."""

    name: str
    instructions: Mapping[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """Its result."""
        every = list(self.instructions.values())
        return next((i for i in every if i.is_root), every[-1])

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """What it takes, by place."""
        return {
            int(i.argument): i
            for i in self.instructions.values()
            if i.opcode == "parameter"
        }

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it reads."""
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction of a computation that runs by itself, and how often it runs."""

    instruction: Instruction
    computation: Computation
    times: int


class Module:
    """A compiled program, as `jax.stages.Compiled.as_text()` prints it.

    Attributes:
      unknown_loops: how many loops do not tell how often they turn; they count as if
        they turned once.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        self.unknown_loops = 0
        self._read(text)
        self.executed = list(self._executed(self.computations[self.entry], 1))

    def parts(
        self, instruction: Instruction, within: Computation
    ) -> Iterator[tuple[Instruction, Computation]]:
        """The instruction itself, or of a fusion the instructions fused, each with its
        computation."""
        if instruction.opcode != "fusion":
            yield instruction, within
            return
        inner = self.computations[instruction.called("calls")]
        for each in inner.instructions.values():
            yield from self.parts(each, inner)

    def _read(self, text: str) -> None:
        name, found = "", {}
        for line in text.splitlines():
            start = _COMPUTATION.match(line)
            if start and not line.startswith(" "):
                name, found = start[2], {}
                if start[1]:
                    self.entry = name
            elif line.startswith("}"):
                self.computations[name] = Computation(name, found)
            elif name and (read := _instruction(line)):
                found[read.name] = read

    def _executed(self, computation: Computation, times: int) -> Iterator[Executed]:
        for instruction in computation.instructions.values():
            yield Executed(instruction, computation, times)
            if instruction.opcode == "while":
                trips = self._trips(instruction, computation)
                if trips is None:
                    self.unknown_loops += 1
                    trips = 1
                body = self.computations[instruction.called("body")]
                yield from self._executed(body, times * trips)
            elif instruction.opcode in ("call", "async-start", "conditional"):
                for name in self._callees(instruction):
                    yield from self._executed(self.computations[name], times)

    def _callees(self, instruction: Instruction) -> list[str]:
        if instruction.opcode == "conditional":
            after = _BRANCHES.split(instruction.attributes)[1:]
            named = [
                _NAME.findall(part.split("}")[0].split(", m")[0]) for part in after
            ]
            return [name for names in named for name in names]
        name = instruction.called("calls") or instruction.called("to_apply")
        return [name] if name else []

    def _trips(self, loop: Instruction, around: Computation) -> int | None:
        """How often a loop turns: as XLA says, or by its counter."""
        said = _TRIPS.search(loop.attributes)
        if said:
            return int(said[1])
        condition = self.computations[loop.called("condition")]
        body = self.computations[loop.called("body")]
        counters = {
            int(i.attribute(r"index=(\d+)") or -1)
            for i in condition.instructions.values()
            if i.opcode == "get-tuple-element"
        }
        start = around.instructions[loop.operands[0]]
        if len(counters) != 1 or start.opcode != "tuple" or body.root.opcode != "tuple":
            return None
        (place,) = counters
        try:
            first = self._value(around, start.operands[place], None)
            step = self._value(body, body.root.operands[place], {place: 0})
            # The condition holds as long as the counter is below the bound.
            if step <= 0 or condition.root.attribute(r"direction=(\w+)") != "LT":
                return None
            bound = self._value(condition, condition.root.operands[1], None)
        except (KeyError, TypeError, ValueError):
            return None
        return max(-(-(bound - first) // step), 0)

    def _value(self, within: Computation, name: str, carried: dict | None) -> int:
        """An integer that constants, sums and the loop's counter make up."""
        instruction = within.instructions[name]
        if instruction.opcode == "constant":
            return int(instruction.argument)
        if instruction.opcode == "get-tuple-element":
            return carried[int(instruction.attribute(r"index=(\d+)"))]
        values = [self._value(within, each, carried) for each in instruction.operands]
        if instruction.opcode == "add":
            return sum(values)
        if instruction.opcode in ("copy", "bitcast"):
            return values[0]
        if instruction.opcode == "fusion":
            inner = self.computations[instruction.called("calls")]
            return self._of_fusion(inner, inner.root, values)
        raise ValueError(instruction.opcode)

    def _of_fusion(self, inner: Computation, at: Instruction, values: list[int]) -> int:
        if at.opcode == "parameter":
            return values[int(at.argument)]
        if at.opcode == "constant":
            return int(at.argument)
        if at.opcode != "add":
            raise ValueError(at.opcode)
        return sum(self._of_fusion(inner, each, values) for each in inner.operands(at))


def _instruction(line: str) -> Instruction | None:
    start = _INSTRUCTION.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    kind, rest = _split_type(rest)
    opcode, _, rest = rest.strip().partition("(")
    end = _closing(rest)
    argument = _COMMENT.sub("", rest[:end])
    shapes = tuple(
        Shape(
            dtype,
            tuple(int(size.lstrip("<=")) for size in dims.split(",") if size),
            int(space[1]) if (space := re.search(r"S\((\d+)\)", layout)) else 0,
        )
        for dtype, dims, layout in _SHAPE.findall(kind)
    )
    return Instruction(
        name=start[2],
        opcode=opcode,
        shapes=shapes,
        operands=tuple(_NAME.findall(argument)),
        argument=argument.strip(),
        attributes=rest[end + 1 :],
        is_root=bool(start[1]),
    )


def _split_type(text: str) -> tuple[str, str]:
    """The type at the beginning of `text`, and what comes after it."""
    end = _closing(text[1:]) + 2 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:]


def _closing(text: str) -> int:
    """Where the bracket closes that was opened just before `text`."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
