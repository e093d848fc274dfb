"""The whole job, as `gptjax demo` does it, checked by stock transformers."""

import json

import numpy as np
import pytest
import torch
import transformers

from gptjax import assets, cli, config, masks, tree


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run folder of a demo."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert cli.main(["demo", "--out", str(folder)]) == 0
    return folder


def reports(folder):
    paths = sorted(folder.glob("rounds/*/report.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_magnitude_with_rewinding_beats_a_random_mask_at_80_percent(demo):
    """Else the criterion, the rewinding or the control is broken."""
    last = reports(demo)[-1]
    assert last["sparsity"] >= 0.8
    assert last["perplexity"] < last["controls"]["random"]["perplexity"]


@pytest.mark.slow
def test_transformers_measures_the_perplexity_that_was_reported(demo):
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


@pytest.mark.slow
def test_the_export_is_zero_where_the_masks_say(demo):
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


@pytest.mark.slow
def test_the_demo_leaves_pictures_samples_and_a_page(demo):
    """What the README shows."""
    for name in ("report.html", "report.md", "rounds.csv", "sparsity_perplexity.png"):
        assert (demo / "report" / name).stat().st_size > 0
    texts = json.loads((demo / "samples.json").read_text())["texts"]
    assert list(texts) == ["start", "00", "01", "02", "03"]
    assert len({text for (text,) in texts.values()}) == 5
