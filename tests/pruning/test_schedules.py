"""Runs of every schedule and criterion end with the masks that they promise."""

import chex
import jax
import numpy as np
import pytest

from gptjax import convert, errors, masks, pruning, tree

HALF = {"pruning.sparsities": [0.5]}
ONE_SHOT = {"pruning.schedule": "one-shot", "training.steps": 0}
CALIBRATED = {"calibration.sequences": 8}


def params_of(folder):
    return {
        path: np.asarray(leaf)
        for path, leaf in tree.flatten(convert.load(folder)[1]).items()
    }


def masks_of(folder):
    params = params_of(folder / "model")
    leaves = tree.unflatten({p: jax.numpy.asarray(x) for p, x in params.items()})
    loaded = masks.load(folder / "masks.safetensors", leaves)
    return {p: np.asarray(m) for p, m in tree.flatten(loaded).items() if m.ndim}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {**ONE_SHOT, "pruning.criterion": "wanda", **HALF},
        {**ONE_SHOT, "pruning.criterion": "sparsegpt", **HALF, "training.steps": 2},
        {**ONE_SHOT, "pruning.criterion": "sparsegpt", "pruning.pattern": "2:4"},
        {**ONE_SHOT, "pruning.criterion": "taylor", **HALF, "pruning.scope": "row"},
        {
            **ONE_SHOT,
            **HALF,
            "pruning.criterion": "wanda",
            "pruning.scope": "global",
            "pruning.reconstruction.epochs": 1,
        },
        {**ONE_SHOT, **HALF, "pruning.allocation": "erk", "pruning.pattern": "2x2"},
        {**ONE_SHOT, **HALF, "pruning.allocation": "owl", "pruning.owl_outlier": 2},
        {**ONE_SHOT, **HALF, "pruning.allocation": "global", "pruning.scope": "row"},
        {**HALF, "pruning.criterion": "movement"},
        {**HALF, "pruning.criterion": "random", "pruning.rewind.to": "none"},
        {**HALF, "pruning.schedule": "gradual", "pruning.updates.every_steps": 1},
        {**HALF, "pruning.schedule": "rigl", "pruning.updates.every_steps": 1},
        {
            **HALF,
            "pruning.schedule": "set",
            "pruning.updates.every_steps": 2,
            "pruning.allocation": "uniform",
        },
    ],
    ids=lambda overrides: "-".join(
        str(value) for key, value in overrides.items() if key.startswith("pruning")
    ),
)
def test_every_way_ends_at_its_sparsity(overrides, tiny_settings, tmp_path, unmeasured):
    """Criteria, patterns, budgets and schedules meet in one place, and may misfit."""
    overrides = {"training.steps": 4, **overrides, **CALIBRATED}
    done = pruning.run(tiny_settings(tmp_path, **overrides))
    report = done.rounds[-1]
    assert report["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert report["perplexity"] == done.summary["end"]["perplexity"]
    exported, folder = params_of(done.export), tmp_path / "rounds" / "01"
    for path, mask in masks_of(folder).items():
        assert (exported[path][~mask] == 0).all(), path
    assert not (folder / "calibration").exists()
    assert done.compilations <= 1


def test_a_one_shot_run_prunes_the_model_as_it_comes(
    tiny_settings, tmp_path, unmeasured
):
    """Trained first, it would be another method, and no comparison with the papers."""
    settings = tiny_settings(tmp_path, **ONE_SHOT, **HALF)
    done = pruning.run(settings)
    source, exported = params_of(settings.model), params_of(done.export)
    for path, mask in masks_of(tmp_path / "rounds" / "01").items():
        np.testing.assert_array_equal(exported[path], np.where(mask, source[path], 0))
    assert done.rounds[0]["perplexity"] == done.summary["start"]["perplexity"]
    assert done.compilations == 0


@pytest.mark.slow
def test_a_gradual_run_interrupted_ends_as_the_unbroken_one(
    tiny_settings, tmp_path, unmeasured, stop_at
):
    """Its masks live in the checkpoint until the round ends."""
    overrides = {
        **HALF,
        "pruning.schedule": "gradual",
        "pruning.updates.every_steps": 1,
    }
    whole = pruning.run(tiny_settings(tmp_path / "whole", **overrides))
    broken = tiny_settings(tmp_path / "broken", **overrides)
    stop_at(3)
    with pytest.raises(errors.Stopped):
        pruning.run(broken)
    resumed = pruning.run(broken)
    chex.assert_trees_all_equal(params_of(resumed.export), params_of(whole.export))
    chex.assert_trees_all_equal(
        *(masks_of(tmp_path / name / "rounds" / "01") for name in ("whole", "broken"))
    )


@pytest.mark.slow
def test_a_ticket_is_used_on_other_data(tiny_settings, tmp_path, unmeasured):
    """Transfer: the mask of run A, the weights it would rewind to, the text of B."""
    pruning.run(tiny_settings(tmp_path / "a", **HALF))
    transferred = tiny_settings(
        tmp_path / "b",
        **{"pruning.masks_from": str(tmp_path / "a"), "training.steps": 3},
    )
    done = pruning.run(transferred)
    ticket = masks_of(tmp_path / "a" / "rounds" / "01")
    chex.assert_trees_all_equal(masks_of(tmp_path / "b" / "rounds" / "01"), ticket)
    assert done.rounds[1]["sparsity"] == done.rounds[1]["target_sparsity"]


@pytest.mark.slow
def test_a_twin_tells_how_stable_the_ticket_is(tiny_settings, tmp_path, unmeasured):
    """Twins on the same batches would be one model, and every ticket stable."""
    controls = {"pruning.controls": ["twin", "shuffle"], "optimizer.learning_rate": 0.1}
    done = pruning.run(tiny_settings(tmp_path, **HALF, **controls))
    twin = done.rounds[1]["controls"]["twin"]
    assert twin["perplexity"] != done.rounds[1]["perplexity"]
    assert twin["barrier"] >= 0
    assert done.rounds[1]["controls"]["shuffle"]["perplexity"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pruning.sparsities": [1.0]}, "pruning.sparsities.0: got 1.0"),
        ({"pruning.sparsities": [-0.1]}, "pruning.sparsities.0: got -0.1"),
        ({"pruning.pattern": "4:4"}, "pattern: 4:4 prunes nothing"),
        ({"pruning.pattern": "2:3"}, "2:3 does not divide blocks/attn/out/kernel"),
        (
            {**HALF, "pruning.criterion": "wanda", "calibration.sequences": 10**6},
            "calibration.sequences 1000000 of 16 tokens need 16000000",
        ),
        ({"pruning.masks_from": "nowhere"}, "pruning.masks_from: nowhere is no masks"),
        ({**HALF, "pruning.criterion": "movement"}, "movement needs training"),
        (
            {**HALF, "pruning.criterion": "sparsegpt", "pruning.scope": "global"},
            "sparsegpt ranks within a layer",
        ),
    ],
)
def test_what_cannot_be_pruned_is_one_clear_line(
    overrides, message, tiny_settings, tmp_path
):
    """The issue with a bad config must be told before anything is half-written."""
    with pytest.raises(errors.UserError) as caught:
        pruning.run(tiny_settings(tmp_path, **ONE_SHOT, **overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    # A mended config must find the folder free.
    assert not list(tmp_path.glob("[!.]*"))


def test_masks_of_another_model_are_refused(tiny_settings, tmp_path, unmeasured):
    """Laid over another model's weights they would be noise."""
    pruning.run(tiny_settings(tmp_path / "a", **ONE_SHOT, **HALF))
    other = {"model": "packaged", "pruning.masks_from": str(tmp_path / "a")}
    with pytest.raises(errors.UserError, match=r"a mask for blocks/.* where the model"):
        pruning.run(tiny_settings(tmp_path / "b", **ONE_SHOT, **other))
