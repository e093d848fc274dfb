"""The table of leaves and their Hugging Face names.

Hugging Face's GPT-2 keeps linear layers as Conv1D, whose weights are (in, out) as
Flax's are: a tensor is reshaped to its leaf, never transposed.
"""

import dataclasses
import itertools
import math
import re

from gptjax import model, tree

PREFIX = "transformer."

# Regex of a leaf's slash path: the tensor's name, and how many of the leaf's axes
# (without L) make up the tensor's first one; those left make up its second. The
# order is that of torch's modules.
NAMES: tree.Rules = (
    (r"embed/tokens/embedding", ("transformer.wte.weight", 1)),
    (r"embed/positions/embedding", ("transformer.wpe.weight", 1)),
    (r"blocks/ln_1/scale", ("transformer.h.{layer}.ln_1.weight", 1)),
    (r"blocks/ln_1/bias", ("transformer.h.{layer}.ln_1.bias", 1)),
    (r"blocks/attn/qkv/kernel", ("transformer.h.{layer}.attn.c_attn.weight", 1)),
    (r"blocks/attn/qkv/bias", ("transformer.h.{layer}.attn.c_attn.bias", 3)),
    (r"blocks/attn/out/kernel", ("transformer.h.{layer}.attn.c_proj.weight", 2)),
    (r"blocks/attn/out/bias", ("transformer.h.{layer}.attn.c_proj.bias", 1)),
    (r"blocks/ln_2/scale", ("transformer.h.{layer}.ln_2.weight", 1)),
    (r"blocks/ln_2/bias", ("transformer.h.{layer}.ln_2.bias", 1)),
    (r"blocks/mlp/up/kernel", ("transformer.h.{layer}.mlp.c_fc.weight", 1)),
    (r"blocks/mlp/up/bias", ("transformer.h.{layer}.mlp.c_fc.bias", 1)),
    (r"blocks/mlp/down/kernel", ("transformer.h.{layer}.mlp.c_proj.weight", 1)),
    (r"blocks/mlp/down/bias", ("transformer.h.{layer}.mlp.c_proj.bias", 1)),
    (r"ln_f/scale", ("transformer.ln_f.weight", 1)),
    (r"ln_f/bias", ("transformer.ln_f.bias", 1)),
    (r"head/embedding", ("lm_head.weight", 1)),
    (r"classifiers/\w+/weight", ("score.weight", 1)),
    (r"taggers/\w+/weight", ("classifier.weight", 1)),
    (r"taggers/\w+/bias", ("classifier.bias", 1)),
)

_POSITIONS = {value: position for position, (_, value) in enumerate(NAMES)}

# Causal masks that transformers before 4.31 stored beside the weights.
BUFFER = re.compile(r"transformer\.h\.(\d+)\.attn\.(bias|masked_bias)")
HEAD = "lm_head.weight"
TOKENS = "transformer.wte.weight"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of params and the tensors that it is made of."""

    path: str
    """Its slash path."""
    shape: tuple[int, ...]
    """With the leading L, where it is stacked."""
    names: tuple[str, ...]
    """Hugging Face names: of its L layers in order, or one if it is not stacked."""
    hf_shape: tuple[int, ...]
    """The shape of each of these tensors."""

    @property
    def is_stacked(self) -> bool:
        """Whether its first axis is L, with one tensor for each layer."""
        return self.path.startswith("blocks/")

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The part of the leaf that one tensor fills."""
        return self.shape[1:] if self.is_stacked else self.shape


def leaves(config: model.Config) -> tuple[Leaf, ...]:
    """Every leaf of the params of `config`, in the order of the table."""
    shapes = {p: leaf.shape for p, leaf in tree.flatten(model.shapes(config)).items()}
    # A tied model has no head of its own, a language model no classifier.
    present = [rule for rule in NAMES if any(tree.covers(rule[0], p) for p in shapes)]
    table = tree.match(present, shapes, table="Hugging Face names")
    result = []
    by_rule = sorted(table.items(), key=lambda item: _POSITIONS[item[1]])
    for path, (name, rows) in by_rule:
        stacked = "{layer}" in name
        layer_shape = shapes[path][1:] if stacked else shapes[path]
        first, second = layer_shape[:rows], layer_shape[rows:]
        result.append(
            Leaf(
                path=path,
                shape=shapes[path],
                names=tuple(
                    name.format(layer=layer)
                    for layer in range(config.n_layer if stacked else 1)
                ),
                hf_shape=(math.prod(first), *((math.prod(second),) if second else ())),
            )
        )
    return tuple(result)


def in_hf_order(config: model.Config) -> list[tuple[str, Leaf, int]]:
    """Every tensor's name, leaf and place in it, as a torch state dict orders them."""
    order = []
    for _, run in itertools.groupby(leaves(config), lambda leaf: leaf.is_stacked):
        run = list(run)
        for place in range(len(run[0].names)):
            order += [(leaf.names[place], leaf, place) for leaf in run]
    return order


def canonical(name: str) -> str:
    """A tensor's name with the prefix that a bare `GPT2Model` leaves out."""
    is_bare = re.match(r"(wte|wpe|h|ln_f)\.", name) is not None
    return PREFIX + name if is_bare else name


def is_buffer(name: str, config: model.Config) -> bool:
    """Whether the tensor called `name` (canonical) is an old stored causal mask."""
    found = BUFFER.fullmatch(name)
    return found is not None and int(found[1]) < config.n_layer
