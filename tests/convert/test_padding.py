"""Models with fewer heads than make up n_embd: kept by gptjax, padded for others."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, model

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
    assert convert.padded_heads(FEWER) == 2
    assert convert.padding_note(FEWER).startswith("each layer's 2 heads are written as")
    stock = dataclasses.replace(FEWER, n_head=4)
    assert convert.padded_heads(stock) == 0
    assert convert.padding_note(stock) is None


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
