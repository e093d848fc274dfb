"""config.json: what is read, what is refused, what is written."""

import json

import pytest
import transformers

from gptjax import convert, errors, model
from gptjax.convert import families, hf_config


def test_stock_defaults_are_ours():
    """A default of ours that differs would change every config that leaves it out."""
    stock = transformers.GPT2Config()
    assert hf_config.parse(stock.to_dict(), where="x") == model.Config()
    assert hf_config.parse({}, where="x") == model.Config()


def test_every_field_arrives(checkpoints, tmp_path):
    """A field missing from the table would be read as its default."""
    fields = {
        "vocab_size": 7,
        "n_positions": 5,
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        "n_inner": 9,
        "activation_function": "relu",
        "resid_pdrop": 0.2,
        "embd_pdrop": 0.3,
        "attn_pdrop": 0.4,
        "layer_norm_epsilon": 1e-3,
        "initializer_range": 0.5,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
        "tie_word_embeddings": False,
    }
    assert fields.keys() == {*families.FAMILIES["gpt2"].fields.values()}
    transformers.GPT2Config(**fields).save_pretrained(tmp_path)
    assert convert.read_config(tmp_path) == model.Config(**fields)


def test_what_is_written_is_what_stock_transformers_writes(checkpoints, tmp_path):
    """Tools look into config.json: a missing or strange field breaks one of them."""
    oracle = checkpoints.make_model(n_inner=5, attn_pdrop=0.0)
    oracle.save_pretrained(tmp_path)
    stock = json.loads((tmp_path / "config.json").read_text())
    config = convert.read_config(tmp_path)
    assert hf_config.to_values(config, dtype="float32", like=stock) == stock
    alone = hf_config.to_values(config, dtype="float32")
    # Of a vocabulary of 32, transformers' default 50256 is no token.
    assert alone == {**stock, "bos_token_id": None, "eos_token_id": None}


def test_names_that_transformers_reads_too(tmp_path):
    """`attribute_map` lets a config say hidden_size for n_embd."""
    values = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    read = hf_config.parse(values, where="x")
    assert (read.n_embd, read.n_layer, read.n_head) == (48, 2, 4)
    with pytest.raises(errors.UserError, match="n_embd is 64, but hidden_size is 48"):
        hf_config.parse({"hidden_size": 48, "n_embd": 64}, where="x")


def test_old_and_harmless_fields_are_no_error():
    """Real checkpoints carry the marks of every version they went through."""
    values = {
        "n_ctx": 1024,
        "n_special": 0,
        "predict_special_tokens": True,
        "_num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "gradient_checkpointing": False,
        "pruned_heads": {},
        "task_specific_params": {"text-generation": {"do_sample": True}},
        "torch_dtype": "float16",
        "quantization_config": None,
    }
    assert hf_config.parse(values, where="x") == model.Config()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "mamba"),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
        ("rotary_pct", 0.25),
        ("per_layer_config", {"0": {"n_inner": 3}}),
        ("n_ctx", 512),
        ("n_layer", "12"),
        ("n_layer", True),
        ("n_layer", 0),
        ("n_inner", 0),
        ("n_inner", 1.5),
        ("n_head", 7),
        ("head_dim", 32),
        ("attn_pdrop", 1.5),
        ("layer_norm_epsilon", float("nan")),
        ("scale_attn_weights", 1),
        ("activation_function", "prelu"),
        ("activation_function", None),
    ],
)
def test_what_is_not_implemented_is_refused(tmp_path, field, value):
    """Reading it as a plain GPT-2 would give other numbers in silence."""
    (tmp_path / "config.json").write_text(json.dumps({field: value}))
    with pytest.raises(errors.UserError) as raised:
        convert.read_config(tmp_path)
    message = str(raised.value)
    assert all(word in message for word in (field, str(value), "config.json"))
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_broken_config_is_one_line(tmp_path, text):
    """A download cut off in the middle is a user's everyday."""
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.UserError, match=r"config\.json: [^\n]+$"):
        convert.read_config(tmp_path)


def test_a_folder_without_config_is_no_model(tmp_path):
    """The commonest mistake: the folder above the right one."""
    with pytest.raises(errors.UserError, match=r"holds no config\.json"):
        convert.read_config(tmp_path)
