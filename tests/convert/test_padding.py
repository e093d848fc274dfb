"""Models with fewer heads than make up n_embd: kept by gptjax, padded for others."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, model, training

FEWER = model.Config(
    n_layer=2, n_embd=12, n_head=2, head_dim=3, vocab_size=17, n_positions=8
)


@pytest.fixture
def params():
    """No bias at its trivial first value."""
    params = model.init(jax.random.key(0), FEWER)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(treedef, noisy)


def test_a_width_of_heads_that_is_stock_is_no_width_of_its_own():
    """Two equal models with unequal configs would compile twice and compare wrongly."""
    stock = model.Config(n_embd=12, n_head=4)
    given = dataclasses.replace(stock, head_dim=3)
    assert given == stock
    assert hash(given) == hash(stock)
    assert dataclasses.replace(given, n_head=2).head_width == 6
    with pytest.raises(errors.UserError, match="head_dim is 0"):
        dataclasses.replace(stock, head_dim=0)


def test_heads_of_zeros_change_no_logit_of_stock_transformers(params, tmp_path):
    """The scale of the attention hangs on the width of a head, which must stay."""
    convert.save(tmp_path / "hf", FEWER, params)
    hf = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    assert hf.config.n_head == 4
    tokens = np.random.default_rng(0).integers(0, 17, (3, 8))
    with torch.no_grad():
        wanted = hf(torch.tensor(tokens)).logits.numpy()
    got = np.asarray(model.apply(FEWER, params, tokens))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    config, padded = convert.load(tmp_path / "hf")
    assert config == dataclasses.replace(FEWER, n_head=4, head_dim=None)
    kernel = np.asarray(padded["blocks"]["attn"]["qkv"]["kernel"])
    assert (kernel[:, :, :, 2:] == 0).all()
    assert (np.asarray(padded["blocks"]["attn"]["out"]["kernel"])[:, 2:] == 0).all()
    assert (np.asarray(padded["blocks"]["attn"]["qkv"]["bias"])[:, :, 2:] == 0).all()
    np.testing.assert_array_equal(
        kernel[:, :, :, :2], params["blocks"]["attn"]["qkv"]["kernel"]
    )


def test_the_tool_says_that_it_padded():
    """Heads that come back in the export would else look like a bug."""
    assert convert.is_padded(FEWER)
    assert convert.padding_note(FEWER).startswith("each layer's 2 heads are written as")
    stock = dataclasses.replace(FEWER, n_head=4)
    assert not convert.is_padded(stock)
    assert convert.padding_note(stock) is None
    fewer = dataclasses.replace(FEWER, family="bloom", n_inner=40)
    assert convert.is_padded(fewer)
    assert convert.padding_note(fewer) == (
        "each layer's 2 heads are written as 4, 2 of them zeros: stock transformers "
        "needs n_embd = n_head x head width; each layer's 40 neurons are written as "
        "48, 8 of them zeros: stock transformers needs 4 n_embd neurons"
    )
    # Its config.json has a field for each.
    for family in ("llama", "qwen3"):
        free = dataclasses.replace(FEWER, family=family, n_inner=40)
        assert not convert.is_padded(free)


def test_heads_of_a_llama_are_made_up_to_a_divisor_of_its_width(tmp_path):
    """Stock transformers refuses another number, whatever a head's width is."""
    config = model.Config(
        family="llama", n_layer=2, n_embd=16, n_head=6, n_kv_head=3, head_dim=2,
        vocab_size=17, n_positions=8, n_inner=12, tie_word_embeddings=False,
        positions=model.Rotary(dims=2), norm="rms", gated_mlp=True, qkv_bias=False,
        out_bias=False, mlp_bias=False, activation_function="silu",
        resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    params = model.init(jax.random.key(0), config)
    note = "6 heads are written as 8, 2 of them zeros: .* n_embd to be a multiple of"
    assert re.search(note, convert.padding_note(config))
    convert.save(tmp_path / "hf", config, params)
    hf = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = np.random.default_rng(0).integers(0, 17, (3, 8))
    with torch.no_grad():
        wanted = hf(torch.tensor(tokens)).logits.numpy()
    got = np.asarray(model.apply(config, params, tokens))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert convert.read_config(tmp_path / "hf").n_head == 8


def test_a_gptjax_folder_keeps_the_heads_as_they_are(params, tmp_path):
    """The next round of pruning goes on with the model that is really there."""
    convert.save_native(tmp_path / "native", FEWER, params)
    config, read = convert.load(tmp_path / "native")
    assert config == FEWER
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_only_a_gptjax_folder_may_say_head_dim(params, tmp_path):
    """Stock transformers would read the field of a Hugging Face folder as nothing."""
    convert.save(tmp_path / "hf", FEWER, params)
    path = tmp_path / "hf" / "config.json"
    values = json.loads(path.read_text())
    assert "head_dim" not in values
    path.write_text(json.dumps({**values, "head_dim": 3}))
    with pytest.raises(errors.UserError, match="head_dim is 3; gptjax knows no such"):
        convert.load(tmp_path / "hf")


@pytest.mark.parametrize("changes", [{"head_dim": 5}, {"n_head": 5}])
def test_heads_that_cannot_be_made_up_are_refused(changes, tmp_path):
    """Written all the same, they would load as another model."""
    config = dataclasses.replace(FEWER, **changes)
    params = model.init(jax.random.key(0), config)
    with pytest.raises(errors.UserError, match="cannot be made up to n_embd 12"):
        convert.save(tmp_path / "hf", config, params)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_of_such_a_model_leaves_it_as_it_is(tiny_settings, tmp_path):
    """What goes on from the run would else have the heads of zeros to prune."""
    source = tiny_settings("never").model
    shape, _ = convert.load(source)
    shape = dataclasses.replace(shape, n_head=1, head_dim=4)
    params = model.init(jax.random.key(0), shape)
    convert.save_native(tmp_path / "source", shape, params, like=source)
    more = {"model": str(tmp_path / "source"), "training.steps": 1}
    done = training.train(tiny_settings(tmp_path / "run", **more))
    assert convert.read_config(done.export).n_head == 2
    assert convert.read_config(convert.resolve(done.folder)) == shape
