"""The Python names."""

import numpy as np
import pytest
import torch
import transformers

import gptjax
import gptjax.config
from gptjax import assets


def test_a_loaded_model_computes_what_transformers_computes(tmp_path):
    """And what it saves, transformers loads."""
    model = gptjax.load("packaged")
    tokens = np.arange(24).reshape(2, 12)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(
        assets.checkpoint(), dtype=torch.float32
    )
    expected = theirs(torch.tensor(tokens)).logits.detach().numpy()
    difference = np.abs(np.asarray(model(tokens)) - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max()
    model.save(tmp_path / "saved")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(
        again.transformer.wte.weight.detach(), theirs.transformer.wte.weight.detach()
    )


def test_generate_returns_what_comes_after_each_prompt():
    """Batches of different lengths, padded apart, cut off at the prompt's end."""
    model = gptjax.load("packaged")
    prompts = ["It is a truth", "Emma"]
    together = model.generate(prompts, max_new_tokens=6)
    alone = [model.generate([p], max_new_tokens=6)[0] for p in prompts]
    assert together == alone
    assert not together[0].startswith("It is")


def test_a_run_is_read_from_its_folder(tiny_settings, tmp_path, made_up_times):
    """`run.model`, `.metrics`, `.rounds`, `.summary`: what a notebook asks for."""
    settings = tiny_settings(tmp_path / "run", **{"training.steps": 2})
    overrides = {"pruning.sparsities": [0.5], "pruning.rewind.to": "none"}
    path = tmp_path / "c.yaml"
    path.write_text(gptjax.config.dump(settings))
    run = gptjax.prune(path, **overrides)
    assert [r["round"] for r in run.rounds] == [0, 1]
    assert {line["phase"] for line in run.metrics} == {"00", "01"}
    assert run.model.config.n_layer == 2
    assert run.summary["savings"]["zeros"] == run.rounds[1]["zeros"]
    assert (run.folder / "report" / "report.md").is_file()


def test_an_unknown_name_is_an_attribute_error():
    """The lazy module must still behave like one."""
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        gptjax.prunes()
