"""The README's way to add a family."""

import pathlib
import types

import numpy as np
import pytest
import stock
import torch
import transformers

from gptjax import convert, generation, model
from gptjax.convert import families

README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.fixture
def stablelm(monkeypatch):
    """The family that the README's block makes, among the others."""
    blocks = README.read_text(encoding="utf-8").split("```python\n")
    (block,) = (each for each in blocks if each.startswith('"""StableLM'))
    module = types.ModuleType("stablelm")
    exec(block.partition("```")[0], vars(module))
    monkeypatch.setitem(families.FAMILIES, "stablelm", module.FAMILY)


@pytest.mark.parametrize("parallel", [False, True])
def test_the_readmes_family_is_stock_transformers_own(stablelm, parallel, tmp_path):
    """Read, computed, written with, and loaded again: a page that lies is no help."""
    torch.manual_seed(0)
    theirs = transformers.StableLmForCausalLM(
        transformers.StableLmConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=stock.POSITIONS,
            initializer_range=0.2,
            use_parallel_residual=parallel,
            use_qkv_bias=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
            },
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = convert.load(tmp_path / "theirs")
    assert config.parallel_residual == parallel
    tokens = np.random.default_rng(0).integers(40, size=(2, 20))
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
    got = model.apply(config, params, tokens)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())
    prompt = [3, 1, 4]
    how = generation.Options(max_new_tokens=20)
    made = generation.Engine(config, params).generate([prompt], how)
    ids = torch.tensor([prompt])
    row = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 3:]
    assert made.tokens[0] == row.tolist()
    convert.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    first, second = (
        (tmp_path / own / "model.safetensors").read_bytes()
        for own in ("theirs", "ours")
    )
    assert first == second
    again = transformers.StableLmForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    with torch.no_grad():
        assert np.array_equal(again.eval()(torch.tensor(tokens)).logits, wanted)
