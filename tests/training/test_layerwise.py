"""Rates of layers, unfreezing, and a rate that falls on a plateau."""

import json

import jax
import numpy as np
import optax
import pytest
import torch

from gptjax import convert, errors, model, training, tree
from gptjax.training import layerwise

SHAPE = model.Config(n_layer=3, n_embd=8, n_head=2, vocab_size=11, n_positions=4)


def updates_after(steps, **how):
    """What is left of an update of ones, by leaf, after so many steps."""
    ones = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), model.shapes(SHAPE)
    )
    chain = layerwise.scale_layers(model.shapes(SHAPE), **how)
    state = chain.init(ones)
    for _ in range(steps):
        found, state = chain.update(ones, state)
    return tree.flatten(found)


def test_a_layers_rate_falls_with_its_depth():
    """Embeddings lie four below the top of three blocks."""
    found = updates_after(1, decay=0.5, unfreeze_every_steps=0)
    assert np.unique(found["embed/tokens/embedding"]) == 0.5**4
    assert np.unique(found["ln_f/scale"]) == 1
    for path, leaf in found.items():
        if path.startswith("blocks/"):
            for layer, own in enumerate(leaf):
                assert np.unique(own) == 0.5 ** (3 - layer), path


@pytest.mark.parametrize(
    ("step", "learning"), [(1, []), (2, []), (3, [2]), (5, [1, 2]), (7, [0, 1, 2])]
)
def test_layers_thaw_from_the_top(step, learning):
    """One more every two steps; embeddings come last."""
    found = updates_after(step, decay=1.0, unfreeze_every_steps=2)
    kernel = found["blocks/mlp/up/kernel"]
    assert [n for n, own in enumerate(kernel) if own.all()] == learning
    assert all(own.all() or not own.any() for own in kernel)
    assert found["ln_f/bias"].all()
    assert not found["embed/positions/embedding"].any()
    assert updates_after(9, decay=1.0, unfreeze_every_steps=2)[
        "embed/positions/embedding"
    ].all()


@pytest.mark.slow
def test_frozen_layers_are_those_that_came(tiny_settings, tmp_path):
    """Weight decay moves a weight without any gradient."""
    settings = tiny_settings(
        tmp_path / "run",
        **{
            "optimizer.unfreeze_every_steps": 3,
            "optimizer.weight_decay": 0.1,
            "training.steps": 4,
        },
    )
    done = training.train(settings)
    before = tree.flatten(convert.load(settings.model)[1])
    after = tree.flatten(convert.load(done.export)[1])
    for path, leaf in after.items():
        moved = np.asarray(leaf != before[path])
        if path.startswith("blocks/"):
            assert not moved[0].any(), path
        elif path.startswith("embed/"):
            assert not moved.any(), path
    assert (after["blocks/mlp/up/kernel"][1] != before["blocks/mlp/up/kernel"][1]).any()


def test_the_rate_falls_as_torchs_does(tiny_settings, tmp_path):
    """After so many evaluations that are no better, and again after as many."""
    settings = tiny_settings(
        tmp_path / "run",
        **{
            "training.steps": 14,
            "training.evaluate_every_steps": 1,
            "optimizer.learning_rate": 0.5,  # too much to get better for long
            "optimizer.schedule": "constant",
            "optimizer.plateau_evaluations": 2,
            "optimizer.plateau_factor": 0.1,
        },
    )
    done = training.train(settings)
    lines = (done.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rates = {r["step"]: r["learning_rate"] for r in records if "learning_rate" in r}
    losses = {r["step"]: r["valid_loss"] for r in records if "valid_loss" in r}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    # torch falls at the first evaluation beyond its patience.
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=1, threshold=0
    )
    for step in range(1, 15):
        assert rates[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
        oracle.step(losses[step])
    assert rates[14] < 0.1


def test_a_plateau_needs_evaluations(tiny_settings, tmp_path):
    with pytest.raises(errors.UserError, match=r"needs training.evaluate_every_steps"):
        tiny_settings(tmp_path / "run", **{"optimizer.plateau_evaluations": 2})
    with pytest.raises(errors.UserError, match="does nothing without"):
        tiny_settings(tmp_path / "run", **{"optimizer.plateau_factor": 0.2})


def test_a_chain_without_these_is_as_before():
    """None is on by default."""
    from gptjax import config
    from gptjax.training import optimizer

    settings = config.Optimizer()
    schedule = optimizer.make_schedule(settings, steps=10)
    chain = optimizer.make_optimizer(settings, schedule, model.shapes(SHAPE))
    state = jax.eval_shape(chain.init, model.shapes(SHAPE))
    assert optax.tree_utils.tree_get(state, "plateau_scale") is None
    for kind in ("LayerwiseState", "PlateauState", "AverageState"):
        assert kind not in repr(state)
