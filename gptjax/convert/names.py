"""Leaves of params and the tensors of a checkpoint that they are made of.

Checkpoints of the families differ in names, in the order and the joining of axes, and
in whether queries, keys and values lie in one tensor: `families` says how.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from gptjax import model, tree
from gptjax.convert import families

# The axes of leaves, without L. P: places of a table.
_AXES: tree.Rules = (
    (r"(embed/tokens|head)/embedding", "V D"),
    (r"embed/positions/embedding", "P D"),
    (r"head/bias", "V"),
    (r"(embed/norm|ln_f|blocks/ln_[12])/(scale|bias)", "D"),
    (r"blocks/attn/qkv/kernel", "D J G K"),
    (r"blocks/attn/qkv/bias", "J G K"),
    (r"blocks/attn/norms/[qk]/(scale|bias)", "K"),
    (r"blocks/attn/out/kernel", "H K D"),
    (r"blocks/mlp/(up|gate)/kernel", "D F"),
    (r"blocks/mlp/(up|gate)/bias", "F"),
    (r"blocks/mlp/down/kernel", "F D"),
    (r"blocks/(attn/out|mlp/down)/bias", "D"),
    (r"(classifiers|taggers)/\w+/weight", "N D"),
    (r"taggers/\w+/bias", "N"),
)


# Of axis J of `attn/qkv`.
_PARTS = {"queries": slice(None, -2), "keys": -2, "values": -1}


@dataclasses.dataclass(frozen=True)
class Part:
    """Tensors that hold a leaf, or the same part of all its layers."""

    names: tuple[str, ...]
    """Of the L layers in order, or one if the leaf is not stacked."""
    hf_shape: tuple[int, ...]
    """The shape of each."""
    sizes: tuple[int, ...]
    """The same with joined axes apart."""
    order: tuple[int, ...]
    """Which of these are the leaf's axes."""
    where: tuple[slice | int, ...]
    """Where the part lies in a layer of the leaf."""

    def of_tensor(self, array: np.ndarray) -> np.ndarray:
        """A tensor as the leaf has it; a view."""
        return array.reshape(self.sizes).transpose(self.order)

    def of_leaf(self, array: np.ndarray) -> np.ndarray:
        """A layer of the leaf as the tensor that holds this part of it."""
        back = np.argsort(self.order)
        return array[self.where].transpose(back).reshape(self.hf_shape)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of params and the tensors that it is made of."""

    path: str
    """Its slash path."""
    shape: tuple[int, ...]
    """With the leading L, where it is stacked."""
    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its tensors."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def is_stacked(self) -> bool:
        """Whether its first axis is L, with tensors for each layer."""
        return self.path.startswith("blocks/")

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The part of the leaf that the tensors of one layer fill."""
        return self.shape[1:] if self.is_stacked else self.shape


def part(
    tensor: families.Tensor, axes: str, shape: tuple[int, ...], layers: int
) -> Part:
    """What a tensor holds of a leaf.

    Args:
      axes: of the leaf, without L, and their sizes, `shape`.
      layers: how many tensors there are.
    """
    names = axes.split()
    where: list[slice | int] = [slice(None)] * len(names)
    sizes = dict(zip(names, shape, strict=True))
    if tensor.part is not None:
        there = where[names.index("J")] = _PARTS[tensor.part]
        if isinstance(there, slice):
            sizes["J"] = len(range(sizes["J"])[there])
        else:
            names.remove("J")
    joined = [each.split() for each in groups(tensor.axes)]
    order = [name for group in joined for name in group]
    return Part(
        names=tuple(tensor.name.format(layer=layer) for layer in range(layers)),
        hf_shape=tuple(math.prod(sizes[name] for name in group) for group in joined),
        sizes=tuple(sizes[name] for name in order),
        order=tuple(order.index(name) for name in names),
        where=tuple(where),
    )


def groups(axes: str) -> list[str]:
    """Axes, each for itself, and those of a pair of brackets together."""
    found, rest = [], axes
    while rest := rest.strip():
        is_joined = rest.startswith("(")
        own, _, rest = rest.removeprefix("(").partition(")" if is_joined else " ")
        found.append(own)
    return found


def axes_of(path: str) -> str:
    """The axes of a leaf, without L."""
    return next(axes for rule, axes in _AXES if tree.covers(rule, path))


@functools.cache
def leaves(config: model.Config) -> tuple[Leaf, ...]:
    """Every leaf of the params of `config`, in the order of the family's table."""
    return leaves_by(config, families.FAMILIES[config.family].rules)


@functools.cache
def leaves_by(config: model.Config, rules: tree.Rules) -> tuple[Leaf, ...]:
    """The same of another table, like `families.Family.rules`."""
    shapes = {p: leaf.shape for p, leaf in tree.flatten(model.shapes(config)).items()}
    # A tied model has no head of its own, a language model no classifier.
    present = [rule for rule in rules if any(tree.covers(rule[0], p) for p in shapes)]
    table = tree.match(present, shapes, table="names of tensors")
    places = {tensors: place for place, (_, tensors) in enumerate(rules)}
    result = []
    for path, tensors in sorted(table.items(), key=lambda item: places[item[1]]):
        layers = config.n_layer if path.startswith("blocks/") else 1
        own = shapes[path][1:] if path.startswith("blocks/") else shapes[path]
        parts = (part(tensor, axes_of(path), own, layers) for tensor in tensors)
        result.append(Leaf(path, shapes[path], tuple(parts)))
    return tuple(result)


def in_hf_order(config: model.Config) -> list[tuple[str, Leaf, Part, int]]:
    """Every tensor: its name, leaf, part and layer, as a torch state dict orders them.

    Tensors of one layer come before those of the next.
    """
    return in_order(leaves(config))


def in_order(leaves: Sequence[Leaf]) -> list[tuple[str, Leaf, Part, int]]:
    """`in_hf_order` of leaves of any table."""
    order = []
    for _, run in itertools.groupby(leaves, lambda leaf: leaf.is_stacked):
        run = list(run)
        for place in range(len(run[0].parts[0].names)):
            order += [
                (part.names[place], leaf, part, place)
                for leaf in run
                for part in leaf.parts
            ]
    return order
