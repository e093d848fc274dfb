"""GPT-2, and what shares its layout: DistilGPT-2, DialoGPT, Cerebras-GPT, GPT2-Chinese.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from gptjax.convert.families.family import Family, Tensor, conv1d, norm

_LAYER = "transformer.h.{layer}"

FAMILY = Family(
    model_type="gpt2",
    title="GPT-2",
    causal="GPT2LMHeadModel",
    classifiers={
        False: "GPT2ForSequenceClassification",
        True: "GPT2ForTokenClassification",
    },
    base={},
    fields={
        **{
            name: name
            for name in (
                "vocab_size",
                "n_positions",
                "n_embd",
                "n_layer",
                "n_head",
                "n_inner",
                "activation_function",
                "resid_pdrop",
                "embd_pdrop",
                "attn_pdrop",
                "layer_norm_epsilon",
                "initializer_range",
                "scale_attn_weights",
                "scale_attn_by_inverse_layer_idx",
                "reorder_and_upcast_attn",
                "tie_word_embeddings",
            )
        },
        # `GPT2Config.attribute_map`.
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    fixed={"n_special": 0},
    stock={
        "add_cross_attention": False,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
    },
    tensors=(
        ("embed/tokens/embedding", Tensor("transformer.wte.weight", "V D")),
        ("embed/positions/embedding", Tensor("transformer.wpe.weight", "P D")),
        *norm("blocks/ln_1", f"{_LAYER}.ln_1"),
        *conv1d("blocks/attn/qkv", f"{_LAYER}.attn.c_attn", "D", "(J G K)"),
        *conv1d("blocks/attn/out", f"{_LAYER}.attn.c_proj", "(H K)", "D"),
        *norm("blocks/ln_2", f"{_LAYER}.ln_2"),
        *conv1d("blocks/mlp/up", f"{_LAYER}.mlp.c_fc", "D", "F"),
        *conv1d("blocks/mlp/down", f"{_LAYER}.mlp.c_proj", "F", "D"),
        *norm("ln_f", "transformer.ln_f"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
    ),
    # Causal masks that transformers before 4.31 stored beside the weights.
    buffers=r"transformer\.h\.(\d+)\.attn\.(bias|masked_bias)",
)
