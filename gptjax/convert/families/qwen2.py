"""Qwen2: a Llama with biases on queries, keys and values, and perhaps windows.

Yang et al., "Qwen2 Technical Report", 2024, arXiv:2407.10671.
"""

from collections.abc import Mapping
from typing import Any

from gptjax import errors, model
from gptjax.convert.families import llama, rope
from gptjax.convert.families.family import Family, flag

WINDOWS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_KINDS = ("full_attention", "sliding_attention")


def read_windows(
    values: Mapping[str, Any], layers: int
) -> tuple[int | None, ...] | None:
    """What stands under `WINDOWS`: a width for each layer, or None.

    Raises:
      UserError: layers that are not named one by one, or a width that is none.
    """
    width = values.get("sliding_window", 4096)
    if not flag(values, "use_sliding_window", False):
        width = None
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28)
        if width is not None and type(first) is not int:
            raise errors.UserError(
                f"max_window_layers is {first!r}; it must be an integer"
            )
        kinds = [_KINDS[width is not None and n >= first] for n in range(layers)]
    is_list = isinstance(kinds, list) and len(kinds) == layers
    if not is_list or any(kind not in _KINDS for kind in kinds):
        raise errors.UserError(
            f"layer_types is {kinds!r}; it must name {' or '.join(map(repr, _KINDS))} "
            f"for each of the {layers} layers"
        )
    if not {_KINDS[1]} & {*kinds}:
        return None
    if type(width) is not int or width < 1:
        raise errors.UserError(
            f"sliding_window is {width!r}; with layers of sliding_attention it must be "
            "a positive integer, and use_sliding_window true"
        )
    return tuple(width if kind == _KINDS[1] else None for kind in kinds)


def write_windows(config: model.Config) -> dict[str, Any]:
    """The fields that `read_windows` reads."""
    windows = config.windows or (None,) * config.n_layer
    widths = {width for width in windows if width is not None}
    if len(widths) > 1:
        raise errors.UserError(
            f"windows of {', '.join(map(str, sorted(widths)))} tokens: a Qwen has one "
            "width for all layers"
        )
    return {
        "layer_types": [_KINDS[width is not None] for width in windows],
        "max_window_layers": config.n_layer,
        "sliding_window": widths.pop() if widths else None,
        "use_sliding_window": config.windows is not None,
    }


def _read(values, fields):
    width = fields["n_embd"] // fields["n_head"]
    # transformers would heed another, which it knows no field for.
    if "head_dim" not in fields and values.get("head_dim") not in (None, width):
        raise errors.UserError(
            f"head_dim is {values['head_dim']!r}; gptjax implements only that of "
            f"hidden_size / num_attention_heads, {width}"
        )
    return {
        "positions": llama.read_positions(values, fields),
        "windows": read_windows(values, fields["n_layer"]),
    }


def _write(config: model.Config):
    return {
        **rope.write(config),
        **write_windows(config),
        "num_key_value_heads": config.kv_heads,
    }


BASE = {
    **llama.BASE,
    "vocab_size": 151936,
    "n_positions": 32768,
    "n_inner": 22016,
    "n_kv_head": 32,
}

FAMILY = Family(
    model_type="qwen2",
    title="Qwen2",
    causal="Qwen2ForCausalLM",
    classifiers={
        False: "Qwen2ForSequenceClassification",
        True: "Qwen2ForTokenClassification",
    },
    tagger="score",
    base={**BASE, "qkv_bias": True},
    fields={hf: own for hf, own in llama.FIELDS.items() if own != "head_dim"},
    special=(*rope.KEYS, *WINDOWS, "head_dim"),
    read=_read,
    write=_write,
    fixed={"use_mrope": False},
    tensors=llama.TENSORS,
    prefix="model.",
    buffers=llama.BUFFERS,
)
