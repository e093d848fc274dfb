"""config.json as no tool would write it: one line, by the field's own name."""

import pytest

from gptjax import errors, model
from gptjax.convert import hf_config

WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8}
CLASSIFIER = {
    "model_type": "llama",
    "architectures": ["LlamaForSequenceClassification"],
}
NEO = {"model_type": "gpt_neo", "num_layers": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_type": "llama", "num_attention_heads": 0},
            "num_attention_heads is 0; it must be at least 1",
        ),
        ({"model_type": "gptj", "n_head": 0}, "n_head is 0; it must be at least 1"),
        (
            {"model_type": "gptj", "num_attention_heads": -4},
            "num_attention_heads is -4; it must be at least 1",
        ),
        (
            {"model_type": "llama", "num_key_value_heads": 3},
            "num_key_value_heads is 3; it must divide num_attention_heads 32",
        ),
        (
            {"model_type": "llama", "hidden_size": 66, "num_attention_heads": 4},
            "hidden_size 66 is not divisible by num_attention_heads 4",
        ),
        (
            {"model_type": "opt", "hidden_size": 66, "num_attention_heads": 4},
            "hidden_size 66 is not divisible by num_attention_heads 4",
        ),
        (
            {"model_type": "opt", "attention_dropout": 2.0},
            "attention_dropout is 2.0; it must be between 0 and 1",
        ),
        (
            {"model_type": "opt", "max_position_embeddings": 9, "n_ctx": 8},
            "n_ctx is 8; it must equal max_position_embeddings, 9",
        ),
        (
            {"model_type": "opt", "parallel": 3},
            "parallel is 3; .* no such field of OPT",
        ),
        (
            {"model_type": "llama", "attention_bias": None},
            "attention_bias is None; it must be true or false",
        ),
        (
            {"model_type": "opt", "enable_bias": "yes"},
            "enable_bias is 'yes'; it must be true or false",
        ),
        (
            {"model_type": "qwen2", "head_dim": 64},
            "head_dim is 64; gptjax implements only that of .*, 128",
        ),
        (
            {**WINDOWS, "max_window_layers": None},
            "max_window_layers is None; it must be an integer",
        ),
        (
            {**WINDOWS, "max_window_layers": "a"},
            "max_window_layers is 'a'; it must be an integer",
        ),
        ({**WINDOWS, "layer_types": 5}, "layer_types is 5; it must name"),
        (
            {**WINDOWS, "num_hidden_layers": 1, "layer_types": [[1]]},
            r"layer_types is \[\[1\]\]; it must name",
        ),
        ({**NEO, "attention_types": 3}, "attention_types is 3; it must name"),
        (
            {**NEO, "attention_types": [[[{}, "local"], 1]]},
            r"attention_types is \[\[\[{}, 'local'\], 1\]\]; it must name",
        ),
        ({"model_type": "openai-gpt", "afn": ["gelu"]}, r"afn is \['gelu'\]; it must"),
        ({"model_type": ["gpt2"]}, r"model_type is \['gpt2'\]; gptjax knows gpt2"),
        ({"architectures": 5}, "architectures is 5; it must be a list"),
        ({**CLASSIFIER, "num_labels": "a"}, "num_labels is 'a'; it must be an integer"),
        ({**CLASSIFIER, "id2label": ["a"]}, r"id2label is \['a'\]; it must name"),
        ({**CLASSIFIER, "id2label": 5}, "id2label is 5; it must name the labels"),
        (
            {**CLASSIFIER, "pad_token_id": "a"},
            "pad_token_id is 'a'; it must be an integer",
        ),
    ],
    ids=str,
)
def test_a_field_that_is_none_is_told_by_its_own_name(values, message):
    """A traceback, or a name that stands nowhere in the file, helps no one."""
    with pytest.raises(errors.UserError, match=f"^x: {message}") as raised:
        hf_config.parse(values, where="x")
    assert "\n" not in str(raised.value)


def test_names_of_no_architecture_that_labels_are_passed_over():
    """Forks name classes of their own, and hold the weights of a language model."""
    values = {"architectures": [["GPT2LMHeadModel"], 5]}
    assert hf_config.parse(values, where="x") == model.Config()


@pytest.mark.parametrize(
    "more",
    [{"max_sequence_length": 9}, {"unsloth_fixed": True, "unsloth_version": "1"}],
    ids=str,
)
def test_marks_that_transformers_does_not_heed_are_passed_over(more):
    """Llama-1 on the hub carries the one, what Unsloth has saved the others."""
    plain = hf_config.parse({"model_type": "llama"}, where="x")
    assert hf_config.parse({"model_type": "llama", **more}, where="x") == plain
