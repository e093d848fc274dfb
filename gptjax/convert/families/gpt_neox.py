"""GPT-NeoX, Pythia: attention and MLP side by side, each behind a norm of its own.

Black et al., "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", 2022,
arXiv:2204.06745; Biderman et al., "Pythia", 2023, arXiv:2304.01373.
"""

from gptjax import model
from gptjax.convert.families import rope
from gptjax.convert.families.family import Family, Tensor, flag, linear, norm

_LAYER = "gpt_neox.layers.{layer}"


def _read(values, fields):
    width = fields.get("head_dim") or fields["n_embd"] // fields["n_head"]
    dropout = values.get("hidden_dropout", 0.0)
    bias = flag(values, "attention_bias", True)
    return {
        "positions": rope.read(
            values,
            width,
            fields["n_positions"],
            fraction=0.25,
            names=("rotary_emb_base", "rotary_pct"),
        ),
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def _write(config: model.Config):
    values = rope.write(config)
    return {
        "rotary_emb_base": values["rope_theta"],
        "rotary_pct": rope.share(config),
        "rope_scaling": values["rope_scaling"],
        "hidden_dropout": config.resid_pdrop,
        "attention_bias": config.qkv_bias,
    }


FAMILY = Family(
    model_type="gpt_neox",
    title="GPT-NeoX",
    causal="GPTNeoXForCausalLM",
    classifiers={
        False: "GPTNeoXForSequenceClassification",
        True: "GPTNeoXForTokenClassification",
    },
    base={
        "vocab_size": 50432,
        "n_positions": 2048,
        "n_embd": 6144,
        "n_layer": 44,
        "n_head": 64,
        "n_inner": 24576,
        "activation_function": "gelu",
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "parallel_residual": True,
    },
    fields={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "attention_dropout": "attn_pdrop",
        "layer_norm_eps": "layer_norm_epsilon",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
        "use_parallel_residual": "parallel_residual",
    },
    special=(
        *rope.KEYS,
        "rotary_emb_base",
        "rotary_pct",
        "hidden_dropout",
        "attention_bias",
    ),
    read=_read,
    write=_write,
    ignored=("attention_probs_dropout_prob", "hidden_dropout_prob"),
    tensors=(
        ("embed/tokens/embedding", Tensor("gpt_neox.embed_in.weight", "V D")),
        *norm("blocks/ln_1", f"{_LAYER}.input_layernorm"),
        *norm("blocks/ln_2", f"{_LAYER}.post_attention_layernorm"),
        *linear(
            "blocks/attn/qkv", f"{_LAYER}.attention.query_key_value", "D", "(G J K)"
        ),
        *linear("blocks/attn/out", f"{_LAYER}.attention.dense", "(H K)", "D"),
        *linear("blocks/mlp/up", f"{_LAYER}.mlp.dense_h_to_4h", "D", "F"),
        *linear("blocks/mlp/down", f"{_LAYER}.mlp.dense_4h_to_h", "F", "D"),
        *norm("ln_f", "gpt_neox.final_layer_norm"),
        ("head/embedding", Tensor("embed_out.weight", "V D")),
    ),
    prefix="gpt_neox.",
    # That of transformers 5.
    aliases={"lm_head.weight": "embed_out.weight"},
    buffers=r"gpt_neox\.layers\.(\d+)\.attention\."
    r"(bias|masked_bias|rotary_emb\.inv_freq)|gpt_neox\.rotary_emb\.inv_freq",
)
