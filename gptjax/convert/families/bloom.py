"""BLOOM: attention falls with the distance, and embeddings are normalized.

BigScience Workshop, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model",
2022, arXiv:2211.05100.
"""

from gptjax import model
from gptjax.convert.families.family import Family, Tensor, linear, norm

_LAYER = "transformer.h.{layer}"

FAMILY = Family(
    model_type="bloom",
    title="BLOOM",
    causal="BloomForCausalLM",
    classifiers={
        False: "BloomForSequenceClassification",
        True: "BloomForTokenClassification",
    },
    base={
        "vocab_size": 250880,
        "n_positions": 2048,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 8,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "positions": model.Alibi(),
        "embedding_norm": True,
    },
    fields={
        "vocab_size": "vocab_size",
        "seq_length": "n_positions",
        "hidden_size": "n_embd",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "hidden_dropout": "resid_pdrop",
        "attention_dropout": "attn_pdrop",
        "layer_norm_epsilon": "layer_norm_epsilon",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
        "apply_residual_connection_post_layernorm": "residual_of_norm",
        "n_embed": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    },
    fixed={"slow_but_exact": False, "n_inner": None},
    ignored=(
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "pretraining_tp",
        "skip_bias_add",
        "skip_bias_add_qkv",
    ),
    tensors=(
        ("embed/tokens/embedding", Tensor("transformer.word_embeddings.weight", "V D")),
        *norm("embed/norm", "transformer.word_embeddings_layernorm"),
        *norm("blocks/ln_1", f"{_LAYER}.input_layernorm"),
        *linear(
            "blocks/attn/qkv",
            f"{_LAYER}.self_attention.query_key_value",
            "D",
            "(G J K)",
        ),
        *linear("blocks/attn/out", f"{_LAYER}.self_attention.dense", "(H K)", "D"),
        *norm("blocks/ln_2", f"{_LAYER}.post_attention_layernorm"),
        *linear("blocks/mlp/up", f"{_LAYER}.mlp.dense_h_to_4h", "D", "F"),
        *linear("blocks/mlp/down", f"{_LAYER}.mlp.dense_4h_to_h", "F", "D"),
        *norm("ln_f", "transformer.ln_f"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
    ),
)
