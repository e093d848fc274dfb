"""The FLOPs and the memory traffic of a compiled program, loops multiplied out."""

import json
import math
import re

import numpy as np

from gptjax.planning import hlo

# Nothing is read or written for these.
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "async-start",
    "async-update",
    "async-done",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)
# Pallas on TPU, cuDNN.
_KERNELS = ('custom_call_target="tpu_custom_call"', 'custom_call_target="__cudnn')
# JAX's splash attention on TPU: matrix products over queries and keys, by kernel.
_SPLASH = {"fwd": 2, "dq": 3, "dkv": 4}
_SLICES = ("dynamic-slice", "slice", "gather", "slice-start")


def flops(module: hlo.Module) -> int:
    """FLOPs of the matrix products, two for each multiplication and addition.

    Those of a kernel that is no XLA instruction (Pallas, cuDNN) count as far as it
    states them; splash attention, which does not, as if the mask skipped none of its
    blocks.
    """
    return sum(
        executed.times * _flops(instruction, within)
        for executed in module.executed
        for instruction, within in module.parts(
            executed.instruction, executed.computation
        )
    )


def _flops(instruction: hlo.Instruction, within: hlo.Computation) -> int:
    if instruction.opcode == "dot":
        dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        return _product(instruction, within, dims or "")
    if instruction.opcode == "convolution":
        return _convolution(instruction, within)
    if instruction.opcode == "custom-call":
        # What cuBLAS is called with.
        dims = instruction.attribute(r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
        if dims is not None:
            return _product(instruction, within, dims.replace('"', ""))
        return _of_kernel(instruction, within) or 0
    return 0


def silent_kernels(module: hlo.Module) -> int:
    """How many kernels a step runs whose FLOPs nobody knows."""
    return sum(
        executed.times
        for executed in module.executed
        if any(name in executed.instruction.attributes for name in _KERNELS)
        and _of_kernel(executed.instruction, executed.computation) is None
    )


def _of_kernel(kernel: hlo.Instruction, within: hlo.Computation) -> int | None:
    """The FLOPs of a kernel, if it says so or is splash attention."""
    stated = kernel.attribute(r'"cost_estimate":(\{[^}]*\})')
    if stated is not None and "flops" in (values := json.loads(stated)):
        return int(values["flops"])
    splash = re.match(r"splash_mha_(fwd|dq|dkv)_", kernel.name)
    if splash is None:
        return None
    # What stands before the queries says which blocks to skip, in integers.
    queries, keys = [
        shape
        for each in within.operands(kernel)
        for shape in each.shapes
        if shape.dtype in ("bf16", "f32")
    ][:2]
    return _SPLASH[splash[1]] * 2 * queries.elements * keys.dims[-2]


def _product(
    instruction: hlo.Instruction, within: hlo.Computation, contracting: str
) -> int:
    left = within.operands(instruction)[0].shapes[0]
    depth = math.prod(left.dims[int(dim)] for dim in contracting.split(",") if dim)
    return 2 * instruction.shapes[0].elements * depth


def _convolution(instruction: hlo.Instruction, within: hlo.Computation) -> int:
    """TPUs write matrix products as convolutions, batches and heads as windows.

    Places of a window that lie in the padding are no work.
    """
    left, kernel = (each.shapes[0] for each in within.operands(instruction)[:2])
    result = instruction.shapes[0]
    labels = instruction.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)")
    of_left, rest = labels.split("_")
    of_kernel, of_result = rest.split("->")
    window = {
        key: value.split("x")
        for key, value in re.findall(r"(\w+)=([\dx_\-]+)", instruction.attributes)
        if key in ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")
    }
    work = 2 * result.dims[of_result.index("b")] * result.dims[of_result.index("f")]
    work *= kernel.dims[of_kernel.index("i")]
    spatial = sorted(label for label in of_kernel if label.isdigit())
    for place, label in enumerate(spatial):

        def of(key, default, place=place):
            return int(window[key][place]) if key in window else default

        low = int(window["pad"][place].split("_")[0]) if "pad" in window else 0
        out = np.arange(result.dims[of_result.index(label)]) * of("stride", 1) - low
        taps = np.arange(of("size", 1)) * of("rhs_dilate", 1)
        at, dilate = out[:, None] + taps, of("lhs_dilate", 1)
        inside = left.dims[of_left.index(label)] * dilate - dilate + 1
        work *= int(((at >= 0) & (at < inside) & (at % dilate == 0)).sum())
    groups = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    return work // groups


def memory_bytes(module: hlo.Module) -> int:
    """Bytes that move from and to the device's main memory.

    What every instruction reads and writes there, fusions as one; of an array that is
    only sliced or updated in place, the slice.
    """
    return sum(
        executed.times * _moved(executed, module) for executed in module.executed
    )


def _moved(executed: hlo.Executed, module: hlo.Module) -> int:
    instruction, within = executed.instruction, executed.computation
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0
    operands = within.operands(instruction)
    if instruction.opcode == "fusion":
        return _of_fusion(instruction, operands, module)
    if instruction.opcode in _SLICES:
        return 2 * _main(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _main(operands[1])
    if instruction.opcode == "scatter":
        return 3 * _main(operands[-1])
    if instruction.opcode.endswith("-start"):
        # The result repeats the operand.
        return _main(instruction)
    return _main(instruction) + sum(map(_main, operands))


def _main(instruction: hlo.Instruction) -> int:
    """Bytes of its result that lie in main memory."""
    return sum(shape.bytes for shape in instruction.shapes if shape.space == 0)


def _of_fusion(
    instruction: hlo.Instruction, operands: list[hlo.Instruction], module: hlo.Module
) -> int:
    inner = module.computations[instruction.called("calls")]
    readers: dict[str, list[hlo.Instruction]] = {}
    for each in inner.instructions.values():
        for name in each.operands:
            readers.setdefault(name, []).append(each)

    def uses(name):
        """Who reads it, through changes of its type and form."""
        for reader in readers.get(name, ()):
            if reader.opcode in ("bitcast", "convert", "copy", "reshape"):
                yield from uses(reader.name)
            else:
                yield reader, name

    total = 0
    for place, operand in enumerate(operands):
        used = list(uses(inner.parameters[place].name))
        whole = _main(operand)
        if used and all(
            (reader.opcode in _SLICES or reader.opcode == "dynamic-update-slice")
            and reader.operands[0] == name
            for reader, name in used
        ):
            part = sum(
                sum(shape.elements for shape in reader.shapes)
                for reader, _ in used
                if reader.opcode in _SLICES
            )
            elements = sum(shape.elements for shape in operand.shapes)
            whole = min(whole, whole * part // max(elements, 1))
        total += whole
    results = [inner.root]
    if inner.root.opcode == "tuple":
        results = inner.operands(inner.root)
    for result, shape in zip(results, instruction.shapes, strict=False):
        if shape.space:
            continue
        while result.opcode in ("bitcast", "convert", "copy"):
            result = inner.operands(result)[0]
        if result.opcode == "dynamic-update-slice":
            update = inner.operands(result)[1].shapes[0]
            total += shape.bytes * update.elements // max(shape.elements, 1)
        else:
            total += shape.bytes
    return total
