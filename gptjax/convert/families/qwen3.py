"""Qwen3: a Qwen2 with normalized queries and keys and no biases.

Yang et al., "Qwen3 Technical Report", 2025, arXiv:2505.09388.
"""

from gptjax import model
from gptjax.convert.families import llama, qwen2, rope
from gptjax.convert.families.family import Family, flag


def _read(values, fields):
    bias = flag(values, "attention_bias", False)
    # A head's width goes by no other number.
    head_dim = fields.get("head_dim") or 128
    return {
        "positions": llama.read_positions(values, {**fields, "head_dim": head_dim}),
        "windows": qwen2.read_windows(values, fields["n_layer"]),
        "head_dim": head_dim,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def _write(config: model.Config):
    return {
        **rope.write(config),
        **qwen2.write_windows(config),
        "attention_bias": config.qkv_bias,
        "head_dim": config.head_width,
        "num_key_value_heads": config.kv_heads,
    }


FAMILY = Family(
    model_type="qwen3",
    title="Qwen3",
    causal="Qwen3ForCausalLM",
    classifiers={
        False: "Qwen3ForSequenceClassification",
        True: "Qwen3ForTokenClassification",
    },
    tagger="score",
    base={**qwen2.BASE, "qk_norm": True},
    fields=llama.FIELDS,
    special=(*rope.KEYS, *qwen2.WINDOWS, "attention_bias"),
    read=_read,
    write=_write,
    tensors=llama.TENSORS,
    prefix="model.",
    buffers=llama.BUFFERS,
)
