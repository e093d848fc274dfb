"""OPT: a GPT-3 whose table of positions begins with two rows for padding.

Zhang et al., "OPT: Open Pre-trained Transformer Language Models", 2022,
arXiv:2205.01068.
"""

from gptjax import errors, model
from gptjax.convert.families.family import Family, Tensor, apart, flag, linear, norm

_LAYER = "model.decoder.layers.{layer}"


def _read(values, fields):
    width = values.get("word_embed_proj_dim")
    if width not in (None, fields.get("n_embd", model.Config.n_embd)):
        raise errors.UserError(
            f"word_embed_proj_dim is {width!r}; gptjax implements only that of "
            "hidden_size"
        )
    is_before = flag(values, "do_layer_norm_before", True)
    has_bias = flag(values, "enable_bias", True)
    return {
        "norm_after": not is_before,
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), has_bias),
    }


def _write(config: model.Config):
    return {
        "do_layer_norm_before": not config.norm_after,
        "enable_bias": config.qkv_bias,
        "word_embed_proj_dim": config.n_embd,
    }


FAMILY = Family(
    model_type="opt",
    title="OPT",
    causal="OPTForCausalLM",
    classifiers={False: "OPTForSequenceClassification"},
    base={
        "vocab_size": 50272,
        "n_positions": 2048,
        "n_inner": 3072,
        "activation_function": "relu",
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "positions": model.Learned(offset=2),
    },
    fields={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "ffn_dim": "n_inner",
        "activation_function": "activation_function",
        "dropout": "resid_pdrop",
        "attention_dropout": "attn_pdrop",
        "init_std": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
    },
    special=("do_layer_norm_before", "enable_bias", "word_embed_proj_dim"),
    read=_read,
    write=_write,
    fixed={
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "layer_norm_elementwise_affine": True,
        "layerdrop": 0.0,
    },
    tensors=(
        ("embed/tokens/embedding", Tensor("model.decoder.embed_tokens.weight", "V D")),
        (
            "embed/positions/embedding",
            Tensor("model.decoder.embed_positions.weight", "P D"),
        ),
        *norm("ln_f", "model.decoder.final_layer_norm"),
        *apart(f"{_LAYER}.self_attn.{{of}}_proj"),
        *linear("blocks/attn/out", f"{_LAYER}.self_attn.out_proj", "(H K)", "D"),
        *norm("blocks/ln_1", f"{_LAYER}.self_attn_layer_norm"),
        *linear("blocks/mlp/up", f"{_LAYER}.fc1", "D", "F"),
        *linear("blocks/mlp/down", f"{_LAYER}.fc2", "F", "D"),
        *norm("blocks/ln_2", f"{_LAYER}.final_layer_norm"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
    ),
    prefix="model.",
    buffers=r"model\.decoder\.version",
)
