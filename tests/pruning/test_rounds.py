"""Pruning runs as a whole: rewinding, resume, controls, reports, exports."""

import json

import chex
import jax
import numpy as np
import pytest
import transformers

from gptjax import convert, errors, masks, pruning, training, tree
from gptjax.pruning import round_report

SPARSITIES = {"pruning.sparsities": [0.5, 0.8]}


def params_of(folder):
    return {
        path: np.asarray(leaf)
        for path, leaf in tree.flatten(convert.load(folder)[1]).items()
    }


def masks_of(path, shapes):
    leaves = jax.tree.map(lambda x: jax.numpy.asarray(x), tree.unflatten(shapes))
    return {
        name: np.asarray(mask)
        for name, mask in tree.flatten(masks.load(path, leaves)).items()
        if masks.is_prunable(mask)
    }


def without_costs(reports):
    """Reports but for the seconds and bytes that choosing masks took."""
    return [{**report, "method": None} for report in reports]


@pytest.fixture
def starts(monkeypatch):
    """The params and masks that every phase of a run starts from, by its name."""
    seen = {}
    fit = training.fit

    def spy(trainer, phase, *, load_params, weight_masks):
        flat_masks = tree.flatten(jax.tree.map(np.asarray, weight_masks))
        flat_params = tree.flatten(jax.tree.map(np.asarray, load_params()))
        seen[phase.name] = (flat_params, flat_masks)
        return fit(trainer, phase, load_params=load_params, weight_masks=weight_masks)

    monkeypatch.setattr(training, "fit", spy)
    return seen


def test_a_run_prunes_to_its_targets_and_says_so(tiny_settings, tmp_path):
    """Masks, models, reports and the export must all tell the same story."""
    settings = tiny_settings(
        tmp_path, **SPARSITIES, **{"pruning.controls": ["random", "reinit"]}
    )
    done = pruning.run(settings)
    assert [r["round"] for r in done.rounds] == [0, 1, 2]
    before = None
    for report in done.rounds[1:]:
        folder = tmp_path / "rounds" / f"{report['round']:02d}"
        assert json.loads((folder / "report.json").read_text()) == report
        params = params_of(folder / "model")
        mask = masks_of(folder / "masks.safetensors", params)
        zeros = sum(int((~m).sum()) for m in mask.values())
        total = sum(m.size for m in mask.values())
        assert zeros == round(report["target_sparsity"] * total) == report["zeros"]
        for path, leaf in mask.items():
            assert (params[path][~leaf] == 0).all(), path
            assert before is None or (~before[path] <= ~leaf).all(), "masks nest"
        assert set(report["controls"]) == {"random", "reinit"}
        before = mask
    chex.assert_trees_all_equal(params_of(done.export), params)
    assert {"step_ratios", "decode_ratios", "bytes_packed"} <= set(
        done.summary["savings"]
    )
    assert not list((tmp_path / "checkpoints").iterdir())
    hf = transformers.GPT2LMHeadModel.from_pretrained(done.export)
    fc = hf.transformer.h[1].mlp.c_fc.weight.detach().numpy()
    assert (fc[~mask["blocks/mlp/up/kernel"][1]] == 0).all()


@pytest.mark.usefixtures("unmeasured")
def test_the_step_compiles_once_for_all_rounds_and_controls(tiny_settings, tmp_path):
    """A lottery-ticket run of twenty rounds would else compile forty times."""
    done = pruning.run(
        tiny_settings(
            tmp_path,
            **SPARSITIES,
            **{
                "pruning.controls": ["random", "reinit"],
                "pruning.rewind.schedule": "continue",
            },
        )
    )
    assert done.compilations == 1


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_a_run_interrupted_in_every_phase_ends_as_the_unbroken_one(
    tiny_settings, tmp_path, stop_at
):
    """Masks, rewinding and controls must come out the same from a half-done folder."""
    overrides = {**SPARSITIES, "pruning.controls": ["random"], "training.steps": 4}
    overrides["training.checkpoint_every_steps"] = 1
    whole = pruning.run(tiny_settings(tmp_path / "whole", **overrides))
    broken = tiny_settings(tmp_path / "broken", **overrides)
    # The phases 00, 01, 01-random, 02 and 02-random, each stopped once.
    stop_at(1, 3, 2, 1, 3)
    stops = 0
    while True:
        try:
            resumed = pruning.run(broken)
            break
        except errors.Stopped:
            stops += 1
    assert stops == 5
    assert without_costs(resumed.rounds) == without_costs(whole.rounds)
    chex.assert_trees_all_equal(params_of(resumed.export), params_of(whole.export))


@pytest.mark.usefixtures("unmeasured")
def test_rewinding_to_pretrained_starts_from_the_source_under_the_new_mask(
    tiny_settings, tmp_path, starts
):
    """Rewinding the wrong copy (trained, or pruned) still trains, only worse."""
    settings = tiny_settings(tmp_path, **SPARSITIES)
    pruning.run(settings)
    source = params_of(settings.model)
    for phase in ("00", "01", "02"):
        chex.assert_trees_all_equal(starts[phase][0], source)


@pytest.mark.usefixtures("unmeasured")
def test_rewinding_to_step_k_starts_from_the_weights_after_step_k(
    tiny_settings, tmp_path, starts
):
    """Off by one step, or taken after donation, it would be another ticket."""
    # Two programs (masks or none) round apart, and Adam would blow that up to steps.
    constant = {"optimizer.schedule": "constant", "optimizer.name": "sgd"}
    to_step = {"pruning.rewind.to": "step:2", **SPARSITIES, **constant}
    pruning.run(tiny_settings(tmp_path / "run", **to_step))
    short = tiny_settings(tmp_path / "short", **constant, **{"training.steps": 2})
    training.train(short)
    two_steps = params_of(tmp_path / "short" / "export")
    for phase in ("01", "02"):
        chex.assert_trees_all_close(starts[phase][0], two_steps, rtol=0, atol=1e-7)
    moved = np.abs(two_steps["ln_f/bias"] - starts["00"][0]["ln_f/bias"]).max()
    assert moved > 1e-5


@pytest.mark.usefixtures("unmeasured")
def test_without_rewinding_a_round_trains_on_what_the_last_one_left(
    tiny_settings, tmp_path, starts
):
    """Fine-tuning and learning-rate rewinding both keep the trained values."""
    pruning.run(tiny_settings(tmp_path, **SPARSITIES, **{"pruning.rewind.to": "none"}))
    chex.assert_trees_all_equal(
        starts["01"][0], params_of(tmp_path / "rounds/00/model")
    )
    chex.assert_trees_all_equal(
        starts["02"][0], params_of(tmp_path / "rounds/01/model")
    )


@pytest.mark.usefixtures("unmeasured")
def test_controls_differ_from_their_round_in_one_thing_only(
    tiny_settings, tmp_path, starts
):
    """A control with other counts, batches or starting weights proves nothing."""
    controls = {"pruning.sparsities": [0.5], "pruning.controls": ["random", "reinit"]}
    pruning.run(tiny_settings(tmp_path, **controls))
    (params, mask), (random_params, random_mask), (fresh_params, fresh_mask) = (
        starts[phase] for phase in ("01", "01-random", "01-reinit")
    )
    chex.assert_trees_all_equal(random_params, params)
    chex.assert_trees_all_equal(fresh_mask, mask)
    kernels = [path for path in mask if mask[path].ndim]
    for path in kernels:
        layers = range(len(mask[path]))
        counts = [(mask[path][n].sum(), random_mask[path][n].sum()) for n in layers]
        assert all(own == other for own, other in counts), path
        assert (mask[path] != random_mask[path]).any()
        assert not np.allclose(fresh_params[path], params[path])


def test_sizes_are_those_counted_by_hand():
    """Savings that flatter are worse than none."""
    kernel = np.ones((2, 3, 4), bool)
    kernel[0, 0] = kernel[1, 1, 1] = False
    shapes = {"blocks": {"kernel": np.zeros((2, 3, 4)), "bias": np.zeros((2, 4))}}
    weight_masks = {"blocks": {"kernel": jax.numpy.asarray(kernel), "bias": np.True_}}
    sizes = round_report.sizes(shapes, weight_masks)
    assert sizes["zeros"] == 5
    assert sizes["parameters"] == 32
    assert sizes["sparsity"] == pytest.approx(5 / 24)
    assert sizes["model_sparsity"] == pytest.approx(5 / 32)
    assert sizes["bytes_dense"] == 128
    assert sizes["bytes_packed"] == 27 * 4 + 24 // 8
    assert sizes["sparsity_per_layer"] == {
        "blocks/kernel": pytest.approx([4 / 12, 1 / 12], abs=1e-6)
    }


def test_a_round_killed_before_it_had_cleaned_up_does_so_when_resumed(tmp_path):
    """Checkpoints hold three times the model, and no later round removes them."""
    report = {"round": 1, "perplexity": 2.5}
    for phase in ("01", "01-random", "02", "010"):
        (tmp_path / "checkpoints" / phase / "4").mkdir(parents=True)
    assert round_report.read(tmp_path, 1) is None
    assert (tmp_path / "checkpoints" / "01").exists()
    path = tmp_path / "rounds" / "01" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    assert round_report.read(tmp_path, 1) == report
    left = {phase.name for phase in (tmp_path / "checkpoints").iterdir()}
    assert left == {"02", "010"}
