"""What a family of checkpoints is: how it names a model's fields and tensors.

A file of this folder holds one `Family`; nothing else knows what its checkpoints look
like.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from gptjax import errors, model, tree


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint that is a leaf of params, or of one layer of it.

    Attributes:
      name: with `{layer}` where there is one for each.
      axes: those of the leaf as the tensor has them, joined ones in brackets:
        `(J G K) D` where the leaf is D J G K.
      part: of axis J, where the tensor holds `queries`, `keys` or `values` alone.
    """

    name: str
    axes: str
    part: str | None = None


def linear(leaf: str, name: str, inputs: str, outputs: str) -> tree.Rules:
    """The kernel and bias of a linear layer as torch's `Linear` stores them."""
    return (
        (f"{leaf}/kernel", Tensor(f"{name}.weight", f"{outputs} {inputs}")),
        (f"{leaf}/bias", Tensor(f"{name}.bias", outputs)),
    )


def conv1d(leaf: str, name: str, inputs: str, outputs: str) -> tree.Rules:
    """Those of transformers' `Conv1D`, which has them as Flax does."""
    return (
        (f"{leaf}/kernel", Tensor(f"{name}.weight", f"{inputs} {outputs}")),
        (f"{leaf}/bias", Tensor(f"{name}.bias", outputs)),
    )


def apart(names: str) -> tree.Rules:
    """Queries, keys and values of layers of their own.

    Args:
      names: of the layer, with `{of}` for q, k or v.
    """

    def tensors(what: str, inputs: str) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(names.replace("{of}", of) + what, axes + inputs, part)
            for of, part, axes in (
                ("q", "queries", "(G J K)"),
                ("k", "keys", "(G K)"),
                ("v", "values", "(G K)"),
            )
        )

    return (
        ("blocks/attn/qkv/kernel", tensors(".weight", " D")),
        ("blocks/attn/qkv/bias", tensors(".bias", "")),
    )


def norm(leaf: str, name: str, width: str = "D") -> tree.Rules:
    """The scale and bias of a norm."""
    return (
        (f"{leaf}/scale", Tensor(f"{name}.weight", width)),
        (f"{leaf}/bias", Tensor(f"{name}.bias", width)),
    )


def flag(values: Mapping[str, Any], name: str, default: bool) -> bool:
    """A field of config.json that is true or false.

    Raises:
      UserError: it is neither.
    """
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise errors.UserError(f"{name} is {value!r}; it must be true or false")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How checkpoints of one `model_type` say what a `model.Config` and its params are.

    Attributes:
      model_type: in config.json; the config's `family`.
      title: what messages call it.
      causal: the architecture of a language model, as transformers calls it.
      classifiers: those of classifiers, by whether they label tokens.
      tagger: the name of the layer that labels tokens.
      base: the fields of `model.Config` that all of the family share, and those of a
        checkpoint that does not say, where they are not the config's own defaults.
      fields: names in config.json -> fields of the config of the same meaning; the
        first name of a field is written.
      read, write: the rest, both ways: of the values of config.json whose names are
        `special`, with the fields known so far, those of `base` among them, more
        fields; of a config, values.
      divides_width: whether transformers wants `n_embd` to be a multiple of the heads
        even where their width is a field of its own.
      fixed: fields of config.json that are implemented at one value only.
      ignored: those that transformers does not heed, either.
      stock: what transformers writes that says nothing of a language model.
      tensors: regex of a leaf's slash path -> its tensor, or several that hold parts;
        in the order of torch's modules. Leaves that a model lacks may be among them.
      prefix: what comes before the names of the trunk in a model with a head.
      aliases: other names of tensors -> those of `tensors`.
      buffers: tensors that are no weights, by their full names, the number of the
        layer, where there is one, a group.
    """

    model_type: str
    title: str
    causal: str
    classifiers: Mapping[bool, str] = dataclasses.field(default_factory=dict)
    tagger: str = "classifier"
    base: Mapping[str, Any]
    fields: Mapping[str, str]
    special: tuple[str, ...] = ()
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = (
        lambda values, fields: {}
    )
    write: Callable[[model.Config], dict[str, Any]] = lambda config: {}
    divides_width: bool = False
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    stock: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: tree.Rules
    prefix: str = "transformer."
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    buffers: str = r"(?!)"

    @property
    def rules(self) -> tree.Rules:
        """`tensors` and those of classifiers, each leaf with a tuple."""
        own = [
            (rule, (each,) if isinstance(each, Tensor) else each)
            for rule, each in self.tensors
        ]
        return (
            *own,
            (r"classifiers/\w+/weight", (Tensor("score.weight", "N D"),)),
            (r"taggers/\w+/weight", (Tensor(f"{self.tagger}.weight", "N D"),)),
            (r"taggers/\w+/bias", (Tensor(f"{self.tagger}.bias", "N"),)),
        )

    def tensors_of(self, path: str) -> tuple[Tensor, ...]:
        """The tensors that make up a leaf."""
        return next(own for rule, own in self.rules if tree.covers(rule, path))

    def name_of(self, path: str) -> str:
        """The name of the one tensor that is a leaf."""
        return self.tensors_of(path)[0].name

    @property
    def has_head_width(self) -> bool:
        """Whether its config.json can say a width of heads that is not theirs by
        `n_embd`."""
        return "head_dim" in self.fields.values()

    @property
    def has_conv1d(self) -> bool:
        """Whether linear layers are stored with inputs first."""
        return self.tensors_of("blocks/mlp/up/kernel")[0].axes == "D F"

    def canonical(self, name: str) -> str:
        """A tensor's name as `tensors` has it: with the prefix that a bare trunk leaves
        out."""
        name = self.aliases.get(name, name)
        length = len(self.prefix)
        trunk = {
            tensor.name[length:].partition(".")[0]
            for _, tensors in self.rules
            for tensor in tensors
            if tensor.name.startswith(self.prefix)
        }
        return self.prefix + name if name.partition(".")[0] in trunk else name

    def is_buffer(self, name: str, layers: int) -> bool:
        """Whether the tensor of that full name is none of the weights."""
        # In a bare trunk some have no prefix.
        names = (name, self.prefix + name)
        found = next(filter(None, (re.fullmatch(self.buffers, n) for n in names)), None)
        if found is None:
            return False
        layer = found[1] if found.re.groups else None
        return layer is None or int(layer) < layers
