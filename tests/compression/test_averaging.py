"""Means of models, and moving averages of one, against float64 numpy and torch."""

import typing

import jax
import numpy as np
import pytest
import torch

import gptjax
from gptjax import (
    api,
    choices,
    cli,
    compression,
    convert,
    errors,
    model,
    training,
    tree,
)

SHAPE = model.Config(n_layer=2, n_embd=8, n_head=2, vocab_size=2048, n_positions=16)


def some(seed, sparsity=0.0):
    """Params of which a random part is 0."""
    rng = np.random.default_rng(seed)
    params = model.init(jax.random.key(seed), SHAPE)
    return jax.tree.map(
        lambda w: np.where(rng.random(w.shape) < sparsity, 0, np.asarray(w) + 0.1),
        params,
    )


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, -0.5]])
def test_a_mean_is_numpys(weights):
    """Weights are divided by their sum, or a model would grow or shrink."""
    models = [some(seed) for seed in range(3)]
    mean = compression.average([lambda m=m: m for m in models], weights)
    for path, leaf in tree.flatten(mean).items():
        stacked = np.stack([tree.flatten(m)[path] for m in models]).astype(np.float64)
        wanted = np.average(stacked, axis=0, weights=weights)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zeros", typing.get_args(choices.Zeros))
def test_zeros_are_those_asked_for(zeros):
    """The mean of two masks' models has the zeros of both, unless told otherwise."""
    one, two = some(1, 0.5), some(2, 0.5)
    mean = compression.average([lambda: one, lambda: two], [3, 1], zeros=zeros)
    for path, leaf in tree.flatten(mean).items():
        first, second = (tree.flatten(m)[path] == 0 for m in (one, two))
        wanted = {"all": first & second, "any": first | second, "first": first}[zeros]
        np.testing.assert_array_equal(leaf == 0, wanted, err_msg=path)


@pytest.mark.parametrize(
    ("models", "weights", "wanted"),
    [
        ([some(0)], None, "a mean takes two"),
        ([some(0), some(1)], [1.0], "1 for 2 models"),
        ([some(0), some(1)], [1.0, -1.0], "must be positive"),
        ([some(0), {**some(1), "more": np.ones(2)}], None, "more is not there"),
    ],
)
def test_what_has_no_mean_is_refused(models, weights, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        compression.average([lambda m=m: m for m in models], weights)


@pytest.mark.slow
def test_the_command_writes_a_model_that_keeps_the_firsts_zeros(
    tiny_settings, tmp_path, capfd, made_up_times
):
    """A pruned student, and its dense parent."""
    run = api.run_pruning(
        tiny_settings(tmp_path / "run", **{"pruning.sparsities": [0.5]})
    )
    parent = str(run.folder / "rounds/00/model")
    student, out = str(run.folder / "export"), str(tmp_path / "out")
    given = ["average", student, parent, "--weight", "0.75", "--weight", "0.25"]
    assert cli.main([*given, "--out", out, "--zeros", "first"]) == 0
    assert "2 models" in capfd.readouterr().out
    mixed, own, other = (
        tree.flatten(convert.load(folder)[1]) for folder in (out, student, parent)
    )
    for path, leaf in mixed.items():
        wanted = np.where(own[path] == 0, 0, 0.75 * own[path] + 0.25 * other[path])
        np.testing.assert_allclose(leaf, wanted, rtol=1e-6, atol=1e-7)
    assert gptjax.load(out).config == gptjax.load(student).config
    assert cli.main(["average", student, "packaged", "--out", out]) == 1
    assert "only models alike" in capfd.readouterr().err


@pytest.mark.slow
def test_a_runs_moving_average_is_torchs(tiny_settings, tmp_path):
    """Of the weights after every step, from those that training starts with."""
    plain = {"training.checkpoint_every_steps": 1, "training.keep_checkpoints": 9}
    weights = []
    for steps in range(5):
        run = tiny_settings(
            tmp_path / str(steps),
            **{**plain, "training.steps": steps, "optimizer.schedule": "constant"},
        )
        weights.append(tree.flatten(convert.load(training.train(run).export)[1]))
    average = {"training.average_decay": 0.7, "optimizer.schedule": "constant"}
    run = tiny_settings(tmp_path / "average", **{**average, "training.steps": 4})
    done = training.train(run)
    found = tree.flatten(convert.load(done.export)[1])
    for path, leaf in found.items():
        module = torch.nn.Linear(1, 1)
        module.weight = torch.nn.Parameter(torch.tensor(np.asarray(weights[0][path])))
        oracle = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)
        )
        oracle.update_parameters(module)  # the first one is taken as it is
        for later in weights[1:]:
            with torch.no_grad():
                module.weight.copy_(torch.tensor(np.asarray(later[path])))
            oracle.update_parameters(module)
        wanted = oracle.module.weight.detach().numpy()
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6, err_msg=path)
    measured = gptjax.load(done.folder).perplexity(run.data.valid)
    assert measured.loss == pytest.approx(done.summary["end"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_an_average_of_a_pruned_model_keeps_its_zeros(
    tiny_settings, tmp_path, made_up_times
):
    """Where masks change while it trains, a weight's past must not come back."""
    run = api.run_pruning(
        tiny_settings(
            tmp_path / "run",
            **{
                "pruning.schedule": "gradual",
                "pruning.sparsities": [0.7],
                "pruning.updates.every_steps": 1,
                "training.average_decay": 0.9,
                "training.steps": 8,
            },
        )
    )
    last = run.rounds[-1]
    _, params = convert.load(run.folder / "export")
    flat = tree.flatten(params)
    for path, counts in last["zeros_per_layer"].items():
        found = [int((np.asarray(layer) == 0).sum()) for layer in flat[path]]
        assert found == counts
