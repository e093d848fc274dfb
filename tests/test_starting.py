"""Models of random weights."""

import json

import numpy as np
import pytest
import transformers

import gptjax
from gptjax import cli, tree

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 2048,
    "max_position_embeddings": 32,
}


@pytest.fixture
def shape(tmp_path):
    """A config.json without weights."""
    path = tmp_path / "shape.json"
    path.write_text(json.dumps(LLAMA))
    return path


def test_a_shape_becomes_a_model_that_transformers_loads(shape, tmp_path, capsys):
    """Weights of the family, drawn as its config says, with a tokenizer."""
    made = tmp_path / "made"
    arguments = [str(shape), str(made), "--tokenizer", "packaged"]
    assert cli.main(["init", *arguments]) == 0
    assert "random by seed 0" in capsys.readouterr().out
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        made, output_loading_info=True
    )
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    again = gptjax.load(made)
    assert again.tokenizer("To be").input_ids == (
        gptjax.load("packaged").tokenizer("To be").input_ids
    )
    flat = tree.flatten(again.params)
    kernel = np.asarray(flat["blocks/mlp/up/kernel"])
    assert kernel.std() == pytest.approx(0.02, rel=0.05)
    residual = np.asarray(flat["blocks/mlp/down/kernel"])
    assert residual.std() == pytest.approx(0.02 / 2, rel=0.05)  # sqrt(2 L) = 2
    for scale in ("ln_f/scale", "blocks/ln_1/scale"):
        np.testing.assert_array_equal(flat[scale], np.ones_like(flat[scale]))


def test_a_seed_decides_the_weights(shape):
    """And nothing else does."""
    first, again, other = (
        tree.flatten(gptjax.init(shape, tokenizer="packaged", seed=seed).params)
        for seed in (0, 0, 1)
    )
    path = "blocks/attn/qkv/kernel"
    np.testing.assert_array_equal(first[path], again[path])
    assert (np.asarray(first[path]) != np.asarray(other[path])).mean() > 0.99


def test_what_begins_no_model_is_one_line(shape, tmp_path, capsys, monkeypatch):
    """A tokenizer that does not fit; a shape as `model=`, which has no weights."""
    shape.write_text(json.dumps({**LLAMA, "vocab_size": 100}))
    arguments = ["init", str(shape), str(tmp_path / "made"), "--tokenizer"]
    assert cli.main([*arguments, "packaged"]) == 1
    assert "the model's vocabulary ends at 99" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["generate", "gpt3-small", "--prompt", "a"]) == 1
    assert "`gptjax init gpt3-small DST` makes one" in capsys.readouterr().err
