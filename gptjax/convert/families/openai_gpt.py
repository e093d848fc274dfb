"""The first GPT.

Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018.
"""

from gptjax import errors, model
from gptjax.convert.families.family import Family, Tensor, conv1d, norm

_LAYER = "transformer.h.{layer}"

# What the family calls its activations -> what they are.
_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}


def _read(values, fields):
    del fields
    name = values.get("afn", "gelu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise errors.UserError(
            f"afn is {name!r}; it must be one of {', '.join(_ACTIVATIONS)}"
        )
    return {"activation_function": _ACTIVATIONS[name]}


def _write(config: model.Config):
    names = {activation: name for name, activation in [*_ACTIVATIONS.items()][:3]}
    return {"afn": names[config.activation_function]}


FAMILY = Family(
    model_type="openai-gpt",
    title="GPT",
    causal="OpenAIGPTLMHeadModel",
    classifiers={False: "OpenAIGPTForSequenceClassification"},
    base={"vocab_size": 40478, "n_positions": 512, "norm_after": True},
    fields={
        **{
            name: name
            for name in (
                "vocab_size",
                "n_positions",
                "n_embd",
                "n_layer",
                "n_head",
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
    special=("afn",),
    read=_read,
    write=_write,
    fixed={"n_special": 0},
    tensors=(
        ("embed/tokens/embedding", Tensor("transformer.tokens_embed.weight", "V D")),
        (
            "embed/positions/embedding",
            Tensor("transformer.positions_embed.weight", "P D"),
        ),
        *conv1d("blocks/attn/qkv", f"{_LAYER}.attn.c_attn", "D", "(J G K)"),
        *conv1d("blocks/attn/out", f"{_LAYER}.attn.c_proj", "(H K)", "D"),
        *norm("blocks/ln_1", f"{_LAYER}.ln_1"),
        *conv1d("blocks/mlp/up", f"{_LAYER}.mlp.c_fc", "D", "F"),
        *conv1d("blocks/mlp/down", f"{_LAYER}.mlp.c_proj", "F", "D"),
        *norm("blocks/ln_2", f"{_LAYER}.ln_2"),
        ("head/embedding", Tensor("lm_head.weight", "V D")),
    ),
    # As transformers before 4.31 stored them.
    buffers=r"transformer\.(?:h\.(\d+)\.attn\.bias|position_ids)",
)
