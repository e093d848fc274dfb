"""Every family on a grid: files, and what stock transformers makes of them."""

import dataclasses

import jax
import numpy as np
import pytest
import stock
import torch
import transformers

from gptjax import convert, grids, model, quantizing
from gptjax.convert import hf_config

GRIDS = [grids.Grid(bits=8), grids.Grid(bits=4, group=16)]


def _saved(family, grid, folder, *, activation_bits=None):
    """A random model on the grid, in a folder."""
    own = {"model_type": family, **stock.regular(family), "vocab_size": 40}
    config = hf_config.parse(own, where=family)
    config = dataclasses.replace(config, activation_bits=activation_bits)
    params, scales = quantizing.to_the_nearest(
        model.init(jax.random.key(0), config), grid
    )
    convert.save(folder, config, params, on_grid=grids.OnGrid(grid, scales))
    return config, params


@pytest.mark.parametrize("family", stock.FAMILIES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_is_read_is_what_was_written(family, grid, tmp_path):
    """Joined axes, keys by themselves, inputs first or last: to the very number."""
    config, params = _saved(family, grid, tmp_path / "made")
    read_config, read = convert.load(tmp_path / "made")
    assert read_config == config
    jax.tree.map(np.testing.assert_array_equal, read, params)


# Layers of the others are no `torch.nn.Linear`, all that the library knows.
LINEAR = [family for family in stock.FAMILIES if family not in ("gpt2", "openai-gpt")]


@pytest.mark.parametrize("family", LINEAR)
def test_transformers_loads_it_and_computes_the_same(family, tmp_path):
    """With the library that it leaves such checkpoints to."""
    config, params = _saved(family, GRIDS[1], tmp_path / "made")
    tokens, wanted = _logits(tmp_path / "made")
    got = model.apply(config, params, tokens)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())


@pytest.mark.parametrize("family", LINEAR)
def test_transformers_rounds_activations_too(family, tmp_path):
    """It divides a token's largest number by 127.5 and not by 127: codes differ."""
    config, params = _saved(family, GRIDS[0], tmp_path / "made", activation_bits=8)
    assert convert.read_config(tmp_path / "made") == config
    tokens, wanted = _logits(tmp_path / "made")
    got = model.apply(config, params, tokens)
    config = dataclasses.replace(config, activation_bits=None)
    floats = np.linalg.norm(wanted - model.apply(config, params, tokens))
    # The noise of two roundings, and neither is none.
    assert 0 < np.linalg.norm(wanted - got) < 2 * floats < 0.03 * np.linalg.norm(wanted)


def _logits(folder):
    """Tokens, and what stock transformers makes of them."""
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    tokens = np.random.default_rng(0).integers(40, size=(2, 20))
    with torch.no_grad():
        return tokens, theirs.eval()(torch.tensor(tokens)).logits.numpy()
