"""GPT-J: attention and MLP side by side, behind one norm.

Wang and Komatsuzaki, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model",
2021.
"""

from gptjax import errors, model
from gptjax.convert.families.family import Family, Tensor, apart, linear, norm

_LAYER = "transformer.h.{layer}"


def _read(values, fields):
    dims = values.get("rotary_dim", 64)
    if dims is None:
        dims = fields["n_embd"] // fields["n_head"]
    if type(dims) is not int:
        raise errors.UserError(f"rotary_dim is {dims!r}; it must be an integer")
    return {"positions": model.Rotary(dims=dims, is_interleaved=True)}


def _write(config: model.Config):
    return {"rotary_dim": config.positions.dims}


FAMILY = Family(
    model_type="gptj",
    title="GPT-J",
    causal="GPTJForCausalLM",
    classifiers={False: "GPTJForSequenceClassification"},
    base={
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "reorder_and_upcast_attn": True,
        "parallel_residual": True,
        "shared_norm": True,
        "qkv_bias": False,
        "out_bias": False,
        "head_bias": True,
    },
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
                "tie_word_embeddings",
            )
        },
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    special=("rotary_dim",),
    read=_read,
    write=_write,
    fixed={"rotary": True, "scale_attn_weights": True},
    tensors=(
        ("embed/tokens/embedding", Tensor("transformer.wte.weight", "V D")),
        *norm("blocks/ln_1", f"{_LAYER}.ln_1"),
        *apart(f"{_LAYER}.attn.{{of}}_proj"),
        *linear("blocks/attn/out", f"{_LAYER}.attn.out_proj", "(H K)", "D"),
        *linear("blocks/mlp/up", f"{_LAYER}.mlp.fc_in", "D", "F"),
        *linear("blocks/mlp/down", f"{_LAYER}.mlp.fc_out", "F", "D"),
        *norm("ln_f", "transformer.ln_f"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
        ("head/bias", Tensor("lm_head.bias", "V")),
    ),
    buffers=r"transformer\.h\.(\d+)\.attn\.(bias|masked_bias|embed_positions)",
)
