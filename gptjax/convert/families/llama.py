"""Llama, SmolLM2, TinyLlama: gated MLPs, RMSNorm, rotary positions, shared keys.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023,
arXiv:2302.13971; Grattafiori et al., "The Llama 3 Herd of Models", 2024,
arXiv:2407.21783.
"""

from gptjax import model
from gptjax.convert.families import rope
from gptjax.convert.families.family import Family, Tensor, apart, flag, linear, norm

_LAYER = "model.layers.{layer}"

TENSORS = (
    ("embed/tokens/embedding", Tensor("model.embed_tokens.weight", "V D")),
    *apart(f"{_LAYER}.self_attn.{{of}}_proj"),
    *linear("blocks/attn/out", f"{_LAYER}.self_attn.o_proj", "(H K)", "D"),
    *norm("blocks/attn/norms/q", f"{_LAYER}.self_attn.q_norm", "K"),
    *norm("blocks/attn/norms/k", f"{_LAYER}.self_attn.k_norm", "K"),
    *linear("blocks/mlp/gate", f"{_LAYER}.mlp.gate_proj", "D", "F"),
    *linear("blocks/mlp/up", f"{_LAYER}.mlp.up_proj", "D", "F"),
    *linear("blocks/mlp/down", f"{_LAYER}.mlp.down_proj", "F", "D"),
    *norm("blocks/ln_1", f"{_LAYER}.input_layernorm"),
    *norm("blocks/ln_2", f"{_LAYER}.post_attention_layernorm"),
    *norm("ln_f", "model.norm"),
    ("head/embedding", Tensor("lm_head.weight", "V D")),
)

BASE = {
    "n_embd": 4096,
    "n_layer": 32,
    "n_head": 32,
    "activation_function": "silu",
    "layer_norm_epsilon": 1e-6,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": False,
    "norm": "rms",
    "gated_mlp": True,
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
}

FIELDS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "head_dim": "head_dim",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
    "attention_dropout": "attn_pdrop",
    "rms_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
}

BUFFERS = r"model\.(?:layers\.(\d+)\.self_attn\.)?rotary_emb\.inv_freq"


def read_positions(values, fields) -> model.Rotary:
    """The rotary positions of this family and of those that share its layout."""
    width = fields.get("head_dim") or fields["n_embd"] // fields["n_head"]
    return rope.read(values, width, fields["n_positions"])


def _read(values, fields):
    bias = flag(values, "attention_bias", False)
    return {
        "positions": read_positions(values, fields),
        "qkv_bias": bias,
        "out_bias": bias,
    }


def _write(config: model.Config):
    return {
        **rope.write(config),
        "attention_bias": config.qkv_bias,
        "head_dim": config.head_width,
        "num_key_value_heads": config.kv_heads,
    }


FAMILY = Family(
    model_type="llama",
    title="Llama",
    causal="LlamaForCausalLM",
    classifiers={
        False: "LlamaForSequenceClassification",
        True: "LlamaForTokenClassification",
    },
    tagger="score",
    base={**BASE, "vocab_size": 32000, "n_positions": 2048, "n_inner": 11008},
    fields={**FIELDS, "mlp_bias": "mlp_bias"},
    special=(*rope.KEYS, "attention_bias"),
    read=_read,
    write=_write,
    divides_width=True,
    fixed={"rope_interleaved": False},
    ignored=("is_llama_config", "pretraining_tp", "transformers.js_config"),
    tensors=TENSORS,
    prefix="model.",
    buffers=BUFFERS,
)
