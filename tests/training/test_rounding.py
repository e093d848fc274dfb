"""Training on a grid of integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import api, config, convert, errors, grids, masks, model, quantizing, tree
from gptjax.training import objectives, rounding, step

GPT = model.Config(
    vocab_size=40,
    n_positions=12,
    n_embd=16,
    n_head=2,
    n_layer=2,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
GRIDS = [grids.Grid(bits=8), grids.Grid(bits=4, group=8)]


def _gradients(params, batch, objective):
    return jax.jit(
        lambda params: step.mean_gradients(
            GPT, params, batch, compute=model.Compute(), objective=objective
        )
    )(params)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_loss_and_gradients_are_those_of_the_rounded_model(grid):
    """The straight-through estimator: of scales, of clipping there is no gradient."""
    # Large ones, so that rounding them changes something.
    params = jax.tree.map(lambda w: 8 * w, model.init(jax.random.key(0), GPT))
    tokens = np.random.default_rng(0).integers(40, size=(2, 3, 12)).astype(np.int32)
    batch = {"tokens": tokens, "labels": tokens}
    nearest, scales = quantizing.to_the_nearest(params, grid)
    assert len(scales) == 4
    task = objectives.LANGUAGE
    got, loss = _gradients(params, batch, rounding.Rounding(task, grid))
    wanted, wanted_loss = _gradients(nearest, batch, task)
    _, plain_loss = _gradients(params, batch, task)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-6)
    assert abs(float(plain_loss) - float(loss)) > 1e-4
    for path, gradient in tree.flatten(wanted).items():
        largest = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(
            tree.flatten(got)[path], gradient, rtol=0, atol=1e-5 * largest, err_msg=path
        )


def test_what_settles_is_what_the_loss_saw():
    """Exactly: an export that is off by a rounding is another model."""
    for grid in GRIDS:
        params = model.init(jax.random.key(1), GPT)
        settled = model.settled(model.on_grid(params, grid))
        nearest, _ = quantizing.to_the_nearest(params, grid)
        jax.tree.map(np.testing.assert_array_equal, settled, nearest)


@pytest.mark.slow
def test_a_pruned_run_on_a_grid_keeps_its_zeros_and_its_codes(
    tiny_settings, tmp_path, made_up_times
):
    """What leaves every round is rounded, and packing it changes nothing more."""
    settings = tiny_settings(
        tmp_path / "run",
        **{
            "pruning.sparsities": [0.5, 0.8],
            "pruning.rewind.to": "none",
            "quantization.bits": 4,
            "quantization.group": 4,
        },
    )
    run = api.run_pruning(settings)
    grid = grids.Grid(bits=4, group=4)
    gpt, params = convert.load(run.folder / "export")
    path = run.folder / "rounds/02/masks.safetensors"
    for leaf, mask in tree.flatten(masks.load(path, params)).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[leaf])
            assert (weights[~np.asarray(mask)] == 0).all()
    assert run.rounds[2]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    rounded, scales = quantizing.to_the_nearest(params, grid)
    for leaf, own in tree.flatten(rounded).items():
        np.testing.assert_allclose(own, tree.flatten(params)[leaf], rtol=1e-6)
    convert.save(tmp_path / "small", gpt, rounded, on_grid=grids.OnGrid(grid, scales))
    loss = run.model.perplexity(settings.data.valid.path, context=16).loss
    told = run.rounds[2]["loss"]
    assert loss == pytest.approx(told, rel=1e-4)


def test_what_does_not_fit_is_refused_before_any_training(tiny_settings, tmp_path):
    with pytest.raises(errors.UserError, match="5 does not divide the 8 inputs"):
        api.run_training(tiny_settings(tmp_path / "run", **{"quantization.group": 5}))
    own = {"model": "packaged", "out": "x", "quantization.bits": 8}
    cut = {"pruning": {"structured": [{"what": "layers", "count": 1}]}}
    for more in ({"adapter.rank": 2}, cut):
        with pytest.raises(errors.UserError, match="does not go with"):
            config.load(None, {**own, **more})
