"""Leaves of an adapter and the tensors of a PEFT folder that they are made of."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax import errors, model, tree
from gptjax.convert import families, names, tensors

PREFIX = "base_model.model."
"""What comes before the names of the model's own tensors."""


def leaves_of(config: model.Config, shapes: Mapping[str, Any]) -> list[names.Leaf]:
    """Every leaf of an adapter, and the tensors of a PEFT folder that it is made of.

    Where a kernel is of several tensors, each has its own rows of B, and all have the
    whole of A.

    Args:
      shapes: of the adapter's leaves, by slash path.
    """
    family = families.FAMILIES[config.family]
    leaves = []
    for path, leaf in shapes.items():
        parent, _, name = path.rpartition("/")
        if name not in ("lora_a", "lora_b"):
            parts = next(own.parts for own in names.leaves(config) if own.path == path)
            parts = tuple(
                dataclasses.replace(
                    part, names=tuple(PREFIX + each for each in part.names)
                )
                for part in parts
            )
            leaves.append(names.Leaf(path, leaf.shape, parts))
            continue
        kernel = f"{parent}/kernel"
        axes = names.axes_of(kernel).split()
        taken = next(n for rule, n in model.KERNELS if tree.covers(rule, kernel))
        inputs, outputs = axes[:taken], axes[taken:]
        own = ["R", *inputs] if name == "lora_a" else [*outputs, "R"]
        ending = f".{name[:-1]}{name[-1].upper()}.weight"
        parts = []
        for tensor in family.tensors_of(kernel):
            # Those of the kernel, without the other matrix's.
            joined = [
                group
                for group in names.groups(tensor.axes)
                if {*group.split()} <= {*own}
            ]
            both = ("R", *joined) if name == "lora_a" else (*joined, "R")
            tensor = families.Tensor(
                PREFIX + tensor.name.removesuffix(".weight") + ending,
                " ".join(f"({group})" for group in both),
                tensor.part if name == "lora_b" else None,
            )
            layers, *shape = leaf.shape
            parts.append(names.part(tensor, " ".join(own), tuple(shape), layers))
        leaves.append(names.Leaf(path, leaf.shape, tuple(parts)))
    return leaves


def module_of(leaf: names.Leaf) -> str:
    """The path of the layer that a leaf is of."""
    return leaf.path.rpartition("/")[0]


def apart(
    leaves: list[names.Leaf], found: Mapping[str, tensors.Tensor], rank: int
) -> list[names.Leaf]:
    """The leaves, where queries, keys and values do not share one A of a higher rank.

    Those that have an adapter lie behind each other along the rank, and each one's rows
    of B are 0 but where its own A is: the product is that of each for itself, and 0
    for those that have none.
    """
    parts = {leaf.path: leaf.parts for leaf in leaves}
    adapted: dict[str, list[int]] = {}
    for module in {module_of(leaf) for leaf in leaves if len(leaf.parts) > 1}:
        a, b = parts[f"{module}/lora_a"], parts[f"{module}/lora_b"]
        own = [
            number
            for number in range(len(a))
            if found.keys() & {*a[number].names, *b[number].names}
        ]
        if own and (len(own) < len(a) or not _is_shared(a, found)):
            adapted[module] = own
    result = []
    for leaf in leaves:
        own = adapted.get(module_of(leaf))
        if own is None:
            result.append(leaf)
            continue
        # Of a layer's A the rank is the first axis, of its B the last.
        axis = 0 if leaf.path.endswith("/lora_a") else -1
        layer, moved = [*leaf.layer_shape], []
        layer[axis] = rank * len(own)
        for place, number in enumerate(own):
            where = [*leaf.parts[number].where]
            where[axis] = slice(rank * place, rank * (place + 1))
            moved.append(dataclasses.replace(leaf.parts[number], where=tuple(where)))
        shape = (leaf.shape[0], *layer)
        result.append(names.Leaf(leaf.path, shape, tuple(moved)))
    return result


def _is_shared(
    parts: tuple[names.Part, ...], found: Mapping[str, tensors.Tensor]
) -> bool:
    """Whether the tensors of all parts are the same, in each layer where they are."""
    for layer in zip(*(part.names for part in parts), strict=True):
        arrays = [found[name].array for name in layer if name in found]
        if any(not np.array_equal(arrays[0], other) for other in arrays[1:]):
            return False
    return True


def read(
    leaf: names.Leaf, found: Mapping[str, tensors.Tensor], path: pathlib.Path
) -> np.ndarray:
    """The leaf of its tensors."""
    layers = leaf.shape[0] if leaf.is_stacked else 1
    dtypes = {found[name].array.dtype for name in leaf.names if name in found}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    out: np.ndarray = np.zeros((layers, *leaf.layer_shape), dtype)
    for part in leaf.parts:
        for layer, name in enumerate(part.names):
            if name not in found:
                raise errors.UserError(f"{path}: the tensor {name} is missing")
            array = found[name].array
            if array.shape != part.hf_shape or array.dtype not in tensors.FLOATING:
                raise errors.UserError(
                    f"{path}: {name} is {array.dtype} {array.shape}; for this model "
                    f"and rank it must be floating {part.hf_shape}"
                )
            out[layer][part.where] = part.of_tensor(array)
    return out if leaf.is_stacked else out[0]
