"""Movement scores against a torch loop, over resumption and through a folder."""

import chex
import jax
import numpy as np
import pytest
import torch

from gptjax import config, convert, errors, masks, model, sharding, training, tree
from gptjax.training import optimizer, state, step

STEPS = 4


def as_tree(hf, tensors, folder):
    """One tensor for each parameter of a Hugging Face model, as our params lie."""
    before = [p.detach().clone() for p in hf.parameters()]
    with torch.no_grad():
        for parameter, tensor in zip(hf.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
        hf.save_pretrained(folder)
        for parameter, tensor in zip(hf.parameters(), before, strict=True):
            parameter.copy_(tensor)
    return tree.flatten(jax.tree.map(np.asarray, convert.load(folder)[1]))


def test_the_scores_are_those_of_a_float64_torch_loop(hugging_face, tmp_path):
    """Clipped gradients, weights after the step or a sign give another order."""
    hf = hugging_face
    hf.save_pretrained(tmp_path / "start")
    gpt, params = convert.load(tmp_path / "start")
    rng = np.random.default_rng(0)
    batches = rng.integers(0, 40, (STEPS, 1, 8, 12)).astype(np.int32)
    rate = 0.1

    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    params = jax.device_put(params, sharding.param_shardings(mesh, params))
    dense = masks.dense(params, config.Pruning(sparsities=(0.5,)).prunable)
    half = jax.tree.map(
        lambda mask, w: (
            jax.device_put(np.asarray(w) > 0, mask.sharding) if mask.ndim else mask
        ),
        dense,
        params,
    )
    settings = config.Optimizer(
        name="sgd", learning_rate=rate, schedule="constant", clip_norm=1e9
    )
    schedule = optimizer.make_schedule(settings, steps=STEPS)
    chain = optimizer.make_optimizer(settings, schedule, params, tracks_movement=True)
    places = state.shardings(mesh, params, half, chain)
    train_step = step.make_step(gpt, chain, schedule, places, model.Compute(mesh=mesh))
    current = state.make_start(chain, places)(params, half, 0)
    for tokens in batches:
        batch = {"tokens": tokens, "labels": tokens}
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        current, _ = train_step(current, batch, jax.random.key(0))
    scores = training.movement_scores(current.opt_state)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf.sharding, scores), places.params
    )

    # The kernels that may be pruned: those of the blocks' matrices.
    hf = hf.double()
    alive = [
        (p > 0) if ".h." in name and p.ndim == 2 else torch.ones_like(p, dtype=bool)
        for name, p in hf.named_parameters()
    ]
    moved = [torch.zeros_like(p) for p in hf.parameters()]
    with torch.no_grad():
        for parameter, mask in zip(hf.parameters(), alive, strict=True):
            parameter.mul_(mask)
    for tokens in batches:
        hf.zero_grad()
        tokens = torch.tensor(tokens[0]).long()
        hf(input_ids=tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            for p, mask, score in zip(hf.parameters(), alive, moved, strict=True):
                score -= p.grad * p
                p -= rate * p.grad * mask
    expected = as_tree(hf.float(), moved, tmp_path / "moved")
    ours = tree.flatten(jax.tree.map(np.asarray, scores))
    for path, theirs in expected.items():
        assert np.abs(theirs).max() > 1e-6, path
        difference = np.abs(ours[path] - theirs).max()
        assert difference <= 2e-5 * np.abs(theirs).max(), path


@pytest.fixture
def phase(tiny_settings):
    """A function (out) -> prepared and the last state of a run that tracks movement."""

    def run(out):
        settings = tiny_settings(
            out,
            **{
                "data.valid": None,
                "pruning.criterion": "movement",
                "pruning.sparsities": [0.5],
            },
        )
        out.mkdir(exist_ok=True)
        prepared = training.prepare(settings)
        trainer = prepared.trainer(schedule_steps=6)
        last, _ = training.fit(
            trainer,
            training.Phase(name="00", start=0, end=6),
            load_params=prepared.load_params,
            weight_masks=trainer.dense_masks(),
        )
        trainer.log.close()
        return prepared, last

    return run


@pytest.mark.slow
def test_scores_resume_bit_for_bit_and_pass_through_a_folder(phase, tmp_path, stop_at):
    """The process that makes a round's masks may not be the one that trained before."""
    _, whole = phase(tmp_path / "whole")
    stop_at(2)
    with pytest.raises(errors.Stopped):
        phase(tmp_path / "broken")
    prepared, broken = phase(tmp_path / "broken")
    expected, scores = (
        jax.tree.map(np.asarray, training.movement_scores(last.opt_state))
        for last in (whole, broken)
    )
    chex.assert_trees_all_equal(scores, expected)
    assert np.abs(scores["blocks"]["mlp"]["up"]["kernel"]).min() > 0
    prepared.export(tmp_path / "movement", scores)
    loaded = jax.tree.map(np.asarray, prepared.load_params(tmp_path / "movement"))
    chex.assert_trees_all_equal(loaded, expected)
