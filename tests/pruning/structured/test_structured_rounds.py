"""Structured runs as a whole: rounds, resume, masks, exports, errors."""

import json

import chex
import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, masks, model, sharding, training, tree
from gptjax.pruning import structured
from gptjax.pruning.structured import activation
from gptjax.reporting import savings as report_savings

ROUNDS = {
    "pruning.structured": [
        {"what": "neurons", "fraction": 0.25},
        {"what": "heads", "count": 1, "by": "taylor"},
    ],
    "calibration.sequences": 12,
    "evaluation.limit_tokens": 200,
}


def params_of(folder):
    return {
        path: np.asarray(leaf)
        for path, leaf in tree.flatten(convert.load(folder)[1]).items()
    }


def assert_loads_in_stock(folder, config, params):
    hf = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 16))
    with torch.no_grad():
        wanted = hf(torch.tensor(tokens)).logits.numpy()
    got = np.asarray(model.apply(config, tree.unflatten(params), tokens))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_run_cuts_trains_and_says_so(tiny_settings, tmp_path):
    """Reports, models and the export must all tell the same story."""
    settings = tiny_settings(tmp_path, **ROUNDS)
    done = structured.run(settings)
    source = convert.read_config(settings.model)
    shapes = [r["shape"] for r in done.rounds]
    assert [s["neurons"] for s in shapes] == [32, 24, 24]
    assert [s["heads"] for s in shapes] == [2, 2, 1]
    assert done.rounds[0]["perplexity"] == done.summary["start"]["perplexity"]
    assert done.compilations == 2
    for report in done.rounds[1:]:
        folder = tmp_path / "rounds" / f"{report['round']:02d}"
        assert json.loads((folder / "report.json").read_text()) == report
        params = params_of(folder / "model")
        has_padding = report["shape"]["heads"] == 1
        assert (folder / "native").exists() == has_padding
        if has_padding:
            assert report["padding"].startswith("each layer's 1 heads are written as 2")
            params = params_of(folder / "native")
        else:
            assert report["padding"] is None
        assert sum(p.size for p in params.values()) == report["parameters"]
        assert report["bytes_dense"] == 4 * report["parameters"]
        before = report["method"]["before_training"]
        assert before["protocol"] == report["protocol"]
        assert before["perplexity"] != report["perplexity"]
    config = convert.read_config(tmp_path / "rounds/02/native")
    assert (config.n_layer, config.n_head, config.head_dim) == (2, 1, 4)
    assert_loads_in_stock(done.export, config, params)
    assert not (tmp_path / "rounds/01/masks.safetensors").exists()
    assert not any((tmp_path / "checkpoints").iterdir())
    savings = done.summary["savings"]
    assert not savings["removed"]["is_reference"]
    assert any("1 of them zeros" in s for s in (report_savings.sentences(savings)))
    assert savings["removed"]["parameters"] == done.rounds[-1]["parameters"]
    assert {"step_ratios_removed", "decode_ratios_removed"} <= savings.keys()
    assert done.summary["structured"]["before"]["neurons"] == source.mlp_width


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_a_choice_is_of_the_lowest_scores_on_the_calibration_text(
    tiny_settings, tmp_path, capsys
):
    """Scores of another model or other sequences would still cut something."""
    removals = [
        {"what": "neurons", "count": 8},
        {"what": "layers", "count": 1, "by": "loss"},
    ]
    settings = tiny_settings(
        tmp_path,
        **{
            **ROUNDS,
            "pruning.structured": removals,
            "training.steps": 0,
            "calibration.order": "first",
        },
    )
    done = structured.run(settings)
    assert capsys.readouterr().err.count("calibration will take about ") == 2
    method = done.rounds[1]["method"]
    prepared = training.prepare(settings)
    tokens = np.asarray(prepared.texts.train.ids[: 12 * 16]).reshape(12, 16)
    mesh = sharding.make_mesh()
    scores = activation.neurons(
        prepared.model_config,
        prepared.load_params(),
        tokens,
        batch_sequences=12,
        mesh=mesh,
    )
    np.testing.assert_allclose(method["scores"]["neurons"], scores, rtol=1e-5)
    kept = np.sort(np.argsort(scores, axis=1)[:, 8:], axis=1)
    assert method["kept"] == {"neurons": kept.tolist()}
    source = params_of(settings.model)["blocks/mlp/up/kernel"]
    wanted = np.stack([source[n][:, kept[n]] for n in range(2)])
    got = params_of(tmp_path / "rounds/01/model")["blocks/mlp/up/kernel"]
    np.testing.assert_array_equal(got, wanted)
    assert done.rounds[1]["perplexity"] == method["before_training"]["perplexity"]

    (losses,) = done.rounds[2]["method"]["scores"]["layers"]
    kept = done.rounds[2]["method"]["kept"]["layers"]
    assert kept == [int(np.argmax(losses))]
    last = params_of(done.export)["blocks/mlp/up/kernel"]
    np.testing.assert_array_equal(last, wanted[kept])


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.usefixtures("unmeasured")
def test_a_run_interrupted_in_every_round_ends_as_the_unbroken_one(
    tiny_settings, tmp_path, stop_at
):
    """Cutting twice, or with another choice, would give another model."""
    overrides = {**ROUNDS, "training.steps": 4, "training.checkpoint_every_steps": 1}
    whole = structured.run(tiny_settings(tmp_path / "whole", **overrides))
    broken = tiny_settings(tmp_path / "broken", **overrides)
    stop_at(3, 3)
    stops = 0
    while True:
        try:
            resumed = structured.run(broken)
            break
        except errors.Stopped:
            stops += 1
            chosen = tmp_path / "broken" / "rounds" / f"{stops:02d}" / "method.json"
            assert chosen.exists()
    assert stops == 2
    for got, wanted in zip(resumed.rounds, whole.rounds, strict=True):
        for cost in ("seconds", "peak_bytes"):
            got["method"].pop(cost, None)
            wanted["method"].pop(cost, None)
        assert got == wanted
    chex.assert_trees_all_equal(params_of(resumed.export), params_of(whole.export))
    assert structured.run(broken).compilations == 0


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_masks_are_cut_along_and_held(tiny_settings, tmp_path):
    """Fine-tuning would else revive what an earlier run had pruned."""
    settings = tiny_settings(tmp_path / "run", **ROUNDS)
    params = convert.load(settings.model)[1]
    keys = iter(jax.random.split(jax.random.key(3), 99))
    rules = settings.pruning.prunable
    ticket = jax.tree.map(
        lambda mask: (
            jax.random.bernoulli(next(keys), 0.4, mask.shape) if mask.ndim else np.True_
        ),
        masks.shapes(params, rules),
    )
    masks.save(tmp_path / "ticket" / "rounds" / "01" / "masks.safetensors", ticket)
    (tmp_path / "ticket" / "rounds" / "01" / "report.json").write_text("{}")
    done = structured.run(
        tiny_settings(
            tmp_path / "run",
            **ROUNDS,
            **{"pruning.masks_from": str(tmp_path / "ticket")},
        )
    )
    assert done.rounds[0]["sparsity"] == pytest.approx(0.6, abs=0.05)
    assert done.rounds[0]["perplexity"] != done.summary["start"]["perplexity"]
    before = tree.flatten(ticket)
    cuts = {1: ("blocks/mlp/up/kernel", 2), 2: ("blocks/attn/out/kernel", 1)}
    for number in (1, 2):
        folder = tmp_path / "run" / "rounds" / f"{number:02d}"
        model_folder = folder / "native" if number > 1 else folder / "model"
        params = convert.load(model_folder)[1]
        weight_masks = tree.flatten(masks.load(folder / "masks.safetensors", params))
        report = json.loads((folder / "report.json").read_text())
        if number in cuts:
            path, axis = cuts[number]
            (kept,) = report["method"]["kept"].values()
            for layer, keep in enumerate(kept):
                wanted = np.take(before[path][layer], keep, axis - 1)
                np.testing.assert_array_equal(weight_masks[path][layer], wanted)
        zeros = 0
        for path, mask in weight_masks.items():
            if mask.ndim:
                weights = np.asarray(tree.flatten(params)[path])
                assert (weights[~np.asarray(mask)] == 0).all(), path
                assert (weights[np.asarray(mask)] != 0).all(), path
                zeros += int((~np.asarray(mask)).sum())
        assert report["zeros"] == zeros
        before = weight_masks
    assert_loads_in_stock(
        done.export, convert.read_config(model_folder), tree.flatten(params)
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"pruning.structured": [{"what": "layers", "indices": [2]}]},
            "there is no layer 2; the model has layers 0 to 1",
        ),
        (
            {"pruning.structured": [{"what": "width", "count": 4}]},
            "dimension of 4 does not divide over fsdp = 8 devices",
        ),
        ({"calibration.sequences": 5000}, "calibration.sequences 5000 of 16 tokens"),
        ({"pruning.controls": ["random"]}, "controls: structured rounds have none"),
        ({"pruning.criterion": "wanda"}, "criterion: structured rounds have none"),
        ({"pruning.masks_from": "nowhere"}, "pruning.masks_from: nowhere is no masks"),
    ],
)
def test_a_bad_config_is_one_line_before_anything_is_cut(
    overrides, message, tiny_settings, tmp_path
):
    """Half-written rounds would be taken for finished ones."""
    with pytest.raises(errors.UserError) as raised:
        structured.run(tiny_settings(tmp_path, **{**ROUNDS, **overrides}))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("rounds/*"))


def test_masks_of_another_model_are_one_line(tiny_settings, tmp_path):
    """Cut along all the same, they would prune at random."""
    other = {"blocks": {"mlp": {"up": {"kernel": jax.numpy.ones((2, 8, 31), bool)}}}}
    masks.save(tmp_path / "other.safetensors", other)
    settings = tiny_settings(
        tmp_path / "run",
        **ROUNDS,
        **{"pruning.masks_from": str(tmp_path / "other.safetensors")},
    )
    with pytest.raises(errors.UserError, match=r"\(2, 8, 31\), where the model has"):
        structured.run(settings)
    assert not list((tmp_path / "run").glob("rounds/*"))
