"""The families that llama.cpp runs: its names of their tensors, what it needs to know.

Axes say how a tensor lies in a GGUF file, outermost first, as numpy has it; ggml counts
them from the other end. Of queries, keys and values in one tensor llama.cpp wants all
queries before all keys, whatever the family's own checkpoints do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax import errors, model, tree
from gptjax.convert import families
from gptjax.convert.families.family import Tensor, apart, linear, norm

_LAYER = "blk.{layer}"

_TRUNK = (
    ("embed/tokens/embedding", Tensor("token_embd.weight", "V D")),
    *norm("blocks/ln_1", f"{_LAYER}.attn_norm"),
    *linear("blocks/attn/out", f"{_LAYER}.attn_output", "(H K)", "D"),
    *norm("blocks/ln_2", f"{_LAYER}.ffn_norm"),
    *linear("blocks/mlp/up", f"{_LAYER}.ffn_up", "D", "F"),
    *linear("blocks/mlp/down", f"{_LAYER}.ffn_down", "F", "D"),
    *norm("ln_f", "output_norm"),
    ("head/embedding", Tensor("output.weight", "V D")),
)
_JOINED = (*_TRUNK, *linear("blocks/attn/qkv", f"{_LAYER}.attn_qkv", "D", "(J G K)"))
_APART = (
    *_TRUNK,
    *apart(f"{_LAYER}.attn_{{of}}"),
    *norm("blocks/attn/norms/q", f"{_LAYER}.attn_q_norm", "K"),
    *norm("blocks/attn/norms/k", f"{_LAYER}.attn_k_norm", "K"),
    *linear("blocks/mlp/gate", f"{_LAYER}.ffn_gate", "D", "F"),
)

# llama.cpp's gelu is the tanh form; the erf is off it by 5e-4 at most, and every Pythia
# is run so.
_TANH = ("gelu_accurate", "gelu_fast", "gelu_new", "gelu_pytorch_tanh")
_GELU = (*_TANH, "gelu_python_tanh", "gelu")
_SILU = ("silu", "swish")

ROPE_FACTORS = "rope_freqs.weight"
"""What Llama 3.1's slower rotation divides each frequency by; no weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """How llama.cpp knows a family.

    Attributes:
      name: `general.architecture`.
      tensors: like `families.Family.tensors`.
      computes: fields of `model.Config` -> the values that llama.cpp computes with.
      turns_neighbours: whether it rotates neighbouring numbers of a head together, so
        that rows of queries and keys change places.
      slows_ramped: whether it can slow rotation as Llama 3.1 does.
    """

    name: str
    tensors: tree.Rules
    computes: Mapping[str, tuple[Any, ...]]
    turns_neighbours: bool = False
    slows_ramped: bool = False

    @property
    def rules(self) -> tree.Rules:
        """`tensors`, each leaf with a tuple."""
        return tuple(
            (rule, (own,) if isinstance(own, Tensor) else own)
            for rule, own in self.tensors
        )

    def heads_turned(self, name: str, config: model.Config) -> int | None:
        """How many heads' rows of a tensor change places; None where none do."""
        if not self.turns_neighbours:
            return None
        kind = name.split(".")[-2]
        return {"attn_q": config.n_head, "attn_k": config.kv_heads}.get(kind)


_NO_WINDOWS = {"windows": (None,)}

ARCHITECTURES = {
    "gpt2": Architecture(
        name="gpt2",
        tensors=(
            *_JOINED,
            ("embed/positions/embedding", Tensor("position_embd.weight", "P D")),
        ),
        computes={
            "activation_function": _GELU,
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
    ),
    "gpt_neox": Architecture(
        name="gptneox",
        tensors=_JOINED,
        computes={
            "activation_function": _GELU,
            "qkv_bias": (True,),
            "out_bias": (True,),
        },
    ),
    "bloom": Architecture(
        name="bloom",
        tensors=(*_JOINED, *norm("embed/norm", "token_embd_norm")),
        computes={"activation_function": _GELU, "residual_of_norm": (False,)},
    ),
    "llama": Architecture(
        name="llama",
        tensors=_APART,
        computes={"activation_function": _SILU},
        turns_neighbours=True,
        slows_ramped=True,
    ),
    "qwen2": Architecture(
        name="qwen2",
        tensors=_APART,
        computes={"activation_function": _SILU, **_NO_WINDOWS},
    ),
    "qwen3": Architecture(
        name="qwen3",
        tensors=_APART,
        computes={
            "activation_function": _SILU,
            "qkv_bias": (False,),
            "out_bias": (False,),
            **_NO_WINDOWS,
        },
    ),
}
"""By the family of a `model.Config`."""


def of(config: model.Config, *, where: str) -> Architecture:
    """What llama.cpp makes of a model.

    Args:
      where: what error messages begin with.

    Raises:
      UserError: it does not run the family, or a field at its value; a classifier.
    """
    title = families.FAMILIES[config.family].title
    found = ARCHITECTURES.get(config.family)
    if found is None:
        known = ", ".join(families.FAMILIES[name].title for name in ARCHITECTURES)
        raise errors.UserError(
            f"{where}: llama.cpp does not run {title}; of gptjax's families it runs "
            f"{known}"
        )
    if config.classifiers:
        raise errors.UserError(
            f"{where}: a classifier; a GGUF file holds a language model"
        )
    if config.activation_bits is not None:
        raise errors.UserError(
            f"{where}: activations of {config.activation_bits} bits, which llama.cpp "
            "does not compute; quantize without --activations"
        )
    for name, values in found.computes.items():
        if (got := getattr(config, name)) not in values:
            wanted = " or ".join(map(repr, values))
            raise errors.UserError(
                f"{where}: {name} is {got!r}; of {title} llama.cpp computes only "
                f"{wanted}"
            )
    scaling = getattr(config.positions, "scaling", None)
    if scaling is not None and scaling.low is not None and not found.slows_ramped:
        raise errors.UserError(
            f"{where}: rotary positions scaled as llama3; of {title} llama.cpp "
            "computes only linear ones"
        )
    return found


def turned(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys, numbers of a head's halves made neighbours."""
    own = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return own.swapaxes(1, 2).reshape(rows.shape)


def turned_back(rows: np.ndarray, heads: int) -> np.ndarray:
    """What `turned` turned."""
    own = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return own.swapaxes(1, 2).reshape(rows.shape)


def hyperparameters(config: model.Config, name: str) -> dict[str, Any]:
    """What llama.cpp's loader asks for, by its keys; ints, floats, bools, strings.

    Args:
      name: of the architecture.
    """
    epsilon = "layer_norm_rms_epsilon" if config.norm == "rms" else "layer_norm_epsilon"
    own: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
        f"attention.{epsilon}": config.layer_norm_epsilon,
    }
    if config.head_dim is not None:
        own["attention.key_length"] = own["attention.value_length"] = config.head_dim
    if name == "gptneox":
        own["use_parallel_residual"] = config.parallel_residual
    rotary = config.positions
    if isinstance(rotary, model.Rotary):
        own["rope.dimension_count"] = rotary.dims
        own["rope.freq_base"] = rotary.theta
        if rotary.scaling is not None and rotary.scaling.low is None:
            own["rope.scaling.type"] = "linear"
            own["rope.scaling.factor"] = rotary.scaling.factor
    return {f"{name}.{key}": value for key, value in own.items()}


def rope_factors(config: model.Config) -> np.ndarray | None:
    """`ROPE_FACTORS`, float32, one for each pair of numbers; None for none."""
    rotary = config.positions
    scaling = getattr(rotary, "scaling", None)
    if scaling is None or scaling.low is None:
        return None
    exponents = np.arange(0, rotary.dims, 2, dtype=np.float32) / rotary.dims
    frequencies = (1 / np.float32(rotary.theta) ** exponents).astype(np.float32)
    return (frequencies / scaling.scaled(frequencies)).astype(np.float32)
