"""The whole job, as `gptjax demo` does it, checked by stock transformers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from gptjax import assets, config, masks, tree


@pytest.mark.slow
def test_the_demo_does_what_the_readme_says(tmp_path):
    """One test, since several of a run in parallel would each make the demo."""
    folder = tmp_path / "run"
    # As a user has it: one device, and programs that XLA takes its time for.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "gptjax", "demo", "--out", str(folder)]
    subprocess.run(command, env=environment, check=True)
    magnitude_with_rewinding_beats_a_random_mask_at_80_percent(folder)
    transformers_measures_the_perplexity_that_was_reported(folder)
    the_export_is_zero_where_the_masks_say(folder)
    there_are_pictures_samples_and_a_page(folder)


def reports(folder):
    paths = sorted(folder.glob("rounds/*/report.json"))
    return [json.loads(path.read_text()) for path in paths]


def magnitude_with_rewinding_beats_a_random_mask_at_80_percent(demo):
    """Else the criterion, the rewinding or the control is broken."""
    last = reports(demo)[-1]
    assert last["sparsity"] >= 0.8
    assert last["perplexity"] < last["controls"]["random"]["perplexity"]


def transformers_measures_the_perplexity_that_was_reported(demo):
    """The export, in torch, over the same windows of the same text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo / "export")
    model = transformers.GPT2LMHeadModel.from_pretrained(demo / "export").eval()
    text = assets.text("shakespeare.valid").read_text(encoding="utf-8")
    settings = config.load(demo / "config.yaml")
    ids = tokenizer(text, return_tensors="pt").input_ids
    ids = ids[:, : settings.evaluation.limit_tokens]
    total = predicted = 0
    with torch.no_grad():
        for window in ids.split(256, dim=1):
            count = window.shape[1] - 1
            total += model(window, labels=window).loss.double().item() * count
            predicted += count
    expected = np.exp(total / predicted)
    assert reports(demo)[-1]["perplexity"] == pytest.approx(expected, rel=1e-4)


def the_export_is_zero_where_the_masks_say(demo):
    """In the weights that transformers loads, under Hugging Face's names."""
    from gptjax import convert

    _, params = convert.load(demo / "export")
    last = sorted(demo.glob("rounds/*/masks.safetensors"))[-1]
    weight_masks = tree.flatten(masks.load(last, params))
    hf = transformers.GPT2LMHeadModel.from_pretrained(demo / "export").transformer
    names = {"attn/qkv": "attn.c_attn", "attn/out": "attn.c_proj"}
    names |= {"mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
    zeros = 0
    for ours, theirs in names.items():
        mask = np.asarray(weight_masks[f"blocks/{ours}/kernel"])
        for layer, block in enumerate(hf.h):
            weight = block.get_submodule(theirs).weight.detach().numpy()
            pruned = ~mask[layer].reshape(weight.shape)
            assert (weight[pruned] == 0).all(), (ours, layer)
            zeros += int(pruned.sum())
    assert zeros == reports(demo)[-1]["zeros"]


def there_are_pictures_samples_and_a_page(demo):
    """What the README shows."""
    for name in ("report.html", "report.md", "rounds.csv", "sparsity_perplexity.png"):
        assert (demo / "report" / name).stat().st_size > 0
    texts = json.loads((demo / "samples.json").read_text())["texts"]
    assert list(texts) == ["start", "00", "01", "02", "03"]
    assert len({text for (text,) in texts.values()}) == 5
