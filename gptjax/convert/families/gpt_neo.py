"""GPT-Neo, an open GPT-3: layers that see all take turns with those of a window.

Black et al., "GPT-Neo: Large Scale Autoregressive Language Modeling with
Mesh-Tensorflow", 2021, doi:10.5281/zenodo.5297715.
"""

from gptjax import errors, model
from gptjax.convert.families.family import Family, Tensor, apart, linear, norm

_LAYER = "transformer.h.{layer}"


def _read(values, fields):
    layers = fields["n_layer"]
    # As transformers has it, whatever the number of layers.
    types = values.get("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [kind for own, times in types for _ in range(times) for kind in own]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != layers or any(x not in ("global", "local") for x in kinds):
        raise errors.UserError(
            f"attention_types is {types!r}; it must name 'global' or 'local' for each "
            f"of the {layers} layers, as [[['global', 'local'], {layers // 2}]]"
        )
    width = values.get("window_size", 256)
    if type(width) is not int or width < 1:
        raise errors.UserError(
            f"window_size is {width!r}; it must be a positive integer"
        )
    return {"windows": tuple(width if kind == "local" else None for kind in kinds)}


def _write(config: model.Config):
    windows = config.windows or (None,) * config.n_layer
    widths = {width for width in windows if width is not None}
    if len(widths) > 1:
        raise errors.UserError(
            f"windows of {', '.join(map(str, sorted(widths)))} tokens: a GPT-Neo has "
            "one width for all layers"
        )
    kinds = ["global" if width is None else "local" for width in windows]
    # The shortest pattern that comes again and again.
    length = next(
        n
        for n in range(1, len(kinds) + 1)
        if len(kinds) % n == 0 and kinds == kinds[:n] * (len(kinds) // n)
    )
    return {
        "attention_types": [[kinds[:length], len(kinds) // length]],
        "window_size": widths.pop() if widths else 256,
    }


FAMILY = Family(
    model_type="gpt_neo",
    title="GPT-Neo",
    causal="GPTNeoForCausalLM",
    classifiers={
        False: "GPTNeoForSequenceClassification",
        True: "GPTNeoForTokenClassification",
    },
    base={
        "n_positions": 2048,
        "n_embd": 2048,
        "n_layer": 24,
        "n_head": 16,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "scale_attn_weights": False,
        "reorder_and_upcast_attn": True,
        "qkv_bias": False,
    },
    fields={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "n_inner",
        "activation_function": "activation_function",
        "resid_dropout": "resid_pdrop",
        "embed_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "layer_norm_epsilon": "layer_norm_epsilon",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    },
    special=("attention_types", "window_size"),
    read=_read,
    write=_write,
    ignored=("attention_layers",),
    tensors=(
        ("embed/tokens/embedding", Tensor("transformer.wte.weight", "V D")),
        ("embed/positions/embedding", Tensor("transformer.wpe.weight", "P D")),
        *norm("blocks/ln_1", f"{_LAYER}.ln_1"),
        *apart(f"{_LAYER}.attn.attention.{{of}}_proj"),
        *linear("blocks/attn/out", f"{_LAYER}.attn.attention.out_proj", "(H K)", "D"),
        *norm("blocks/ln_2", f"{_LAYER}.ln_2"),
        *linear("blocks/mlp/up", f"{_LAYER}.mlp.c_fc", "D", "F"),
        *linear("blocks/mlp/down", f"{_LAYER}.mlp.c_proj", "F", "D"),
        *norm("ln_f", "transformer.ln_f"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
    ),
    buffers=r"transformer\.h\.(\d+)\.attn\.attention\.(bias|masked_bias)",
)
