"""RigL and SET: counts and choices as the papers say, zeros and sparsity kept."""

import itertools
import json
import math

import chex
import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, tree
from gptjax.pruning.dynamic import exchange

STEPS = 11
RIGL = {
    "start": 0.6,
    "training.steps": STEPS,
    "optimizer.name": "adam",
    "pruning.schedule": "rigl",
    "pruning.sparsities": [0.6],
    "pruning.updates.every_steps": 2,
    "pruning.updates.last_step": 9,
    "pruning.updates.drop_fraction": 0.4,
}
SET = {**RIGL, "pruning.schedule": "set"}
EXCHANGES = [2, 4, 6, 8]


def counted(mask):
    return mask.sum(tuple(range(1, mask.ndim)))


def records(folder):
    """What was logged, but for speed and memory."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    machine = ("tokens_per_second", "process_bytes")
    return [
        {k: v for k, v in json.loads(line).items() if k not in machine}
        for line in lines
    ]


def torch_gradients(trainer, params, batch, folder):
    """Of the mean loss, by autograd on stock GPT-2, as a tree like params."""
    source = convert.resolve(trainer.settings.model)
    convert.save(folder, trainer.model_config, params, like=source)
    hf = transformers.GPT2LMHeadModel.from_pretrained(folder).double().eval()
    tokens = torch.tensor(np.concatenate(batch["tokens"])).long()
    hf(input_ids=tokens, labels=tokens).loss.backward()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(parameter.grad)
    hf.float().save_pretrained(folder / "gradients")
    return jax.tree.map(np.asarray, convert.load(folder / "gradients")[1])


def by_the_paper(mask, weight, growth, k):
    """One layer's new mask: argTopK(-|w|) goes, argTopK(growth) of the rest comes."""
    mask, weight, growth = mask.ravel(), weight.ravel(), growth.ravel()
    alive = np.flatnonzero(mask)
    dropped = alive[np.argsort(np.abs(weight[alive]), kind="stable")[:k]]
    stayed = np.setdiff1d(alive, dropped)
    candidates = np.setdiff1d(np.arange(mask.size), stayed)
    grown = candidates[np.argsort(-growth[candidates], kind="stable")[:k]]
    new = np.zeros(mask.size, bool)
    new[np.concatenate([stayed, grown]).astype(int)] = True
    return new


@pytest.mark.slow
def test_rigl_drops_and_grows_what_algorithm_1_says(whole, flatten, tmp_path):
    """The counts, the candidates and the gradient are each easily another's."""
    done, _ = whole("rigl", **RIGL)
    assert [step for step, *_ in done.changes] == EXCHANGES
    moved = 0
    for step, state, batch, new in done.changes:
        fraction = 0.4 / 2 * (1 + math.cos(step * math.pi / 9))
        gradients = torch_gradients(
            done.trainer, state.params, batch, tmp_path / str(step)
        )
        before, after = flatten(state.masks), flatten(new)
        weights, growth = flatten(new, state.params), flatten(new, gradients)
        for path, mask in before.items():
            for layer in range(len(mask)):
                k = int(fraction * mask[layer].sum())
                expected = by_the_paper(
                    mask[layer], weights[path][layer], np.abs(growth[path][layer]), k
                ).reshape(mask[layer].shape)
                # float32 may order two gradients otherwise that are equal to 1e-6.
                assert (expected != after[path][layer]).sum() <= 2, (step, path, layer)
                moved += (mask[layer] & ~after[path][layer]).sum()
    assert moved > 50


@pytest.mark.slow
def test_set_drops_the_smallest_and_grows_at_random(whole, flatten):
    """zeta stays what it is; the random choice must be anew at each exchange."""
    done, _ = whole("set", **SET)
    assert [step for step, *_ in done.changes] == EXCHANGES
    grown = []
    for _, state, _, new in done.changes:
        before, after = flatten(state.masks), flatten(new)
        for path, weight in flatten(new, state.params).items():
            for layer, mask in enumerate(before[path]):
                k = int(0.4 * mask.sum())
                sizes = np.where(mask, np.abs(weight[layer]), np.inf).ravel()
                smallest = np.argsort(sizes, kind="stable")[:k]
                gone = np.flatnonzero(mask & ~after[path][layer])
                assert set(gone) <= set(smallest)
                # Of k drawn from all that are not alive, few were alive just now.
                assert len(gone) > k / 3
        key = "blocks/mlp/up/kernel"
        grown.append(after[key] & ~before[key])
    assert not any((a & b).all() for a, b in itertools.pairwise(grown))
    shares = [g.mean((1, 2)) for g in grown]
    assert np.min(shares) > 0


@pytest.mark.parametrize("schedule", [RIGL, SET], ids=["rigl", "set"])
def test_every_step_keeps_sparsity_and_exact_zeros(whole, flatten, schedule):
    """Adam's momentum moves what it once moved; a count may drift by one a time."""
    done, folder = whole(schedule["pruning.schedule"], **schedule)
    assert len(done.steps) == STEPS
    last = flatten(done.state.masks, done.state.params), flatten(done.state.masks)
    for params, weight_masks in [*done.steps, last]:
        for path, mask in weight_masks.items():
            assert (params[path][~mask] == 0).all()
            np.testing.assert_array_equal(
                counted(mask), counted(done.steps[0][1][path])
            )
    assert done.compilations == 1
    changes = [r for r in records(folder) if "sparsity" in r]
    assert [r["step"] for r in changes] == EXCHANGES
    for record, (_, state, _, new) in zip(changes, done.changes, strict=True):
        before, after = flatten(state.masks), flatten(new)
        assert record["grown"] == record["pruned"] > 0
        assert record["grown"] == sum((after[p] & ~before[p]).sum() for p in after)
        assert record["sparsity"] == pytest.approx(0.6, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [RIGL, SET], ids=["rigl", "set"])
def test_a_run_killed_between_exchanges_ends_bit_for_bit_as_the_unbroken_one(
    whole, train, tmp_path, stop_at, schedule
):
    """Masks now belong to the checkpoint; random growth must not depend on history."""
    unbroken, folder = whole(schedule["pruning.schedule"], **schedule)
    stop_at(2, 5)
    for step in (2, 5):
        with pytest.raises(errors.Stopped, match=f"after step {step} of phase"):
            train(tmp_path / "broken", **schedule)
    broken = train(tmp_path / "broken", **schedule)
    assert broken.compilations == 1
    chex.assert_trees_all_equal(
        *(jax.tree.map(np.asarray, run.state) for run in (unbroken, broken))
    )
    assert records(tmp_path / "broken") == records(folder)


def test_what_was_just_dropped_may_come_back_and_a_dense_layer_stays():
    """Algorithm 1 grows over all that is not kept; a full layer has nothing else."""
    alive = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    drop = [[1, 2, 3, 9, 9, 9], [1, 2, 3, 9, 9, 9], [6, 5, 4, 3, 2, 1]]
    # In the first layer the dropped one is grown again, in the second another is.
    grow = [[0, 5, 0, 1, 2, 3], [4, 0, 0, 3, 2, 3], [1, 2, 3, 4, 5, 6]]
    expected = [alive[0], [0, 1, 1, 0, 1, 0], alive[2]]
    path = "blocks/mlp/up/kernel"

    def stacked(rows, dtype):
        return jax.numpy.asarray(np.array(rows, dtype)[:, None])

    new = exchange.exchange(
        tree.unflatten({path: stacked(alive, bool), "ln_f/bias": np.True_}),
        {path: np.array([1, 1, 3])},
        drop=tree.unflatten({path: stacked(drop, np.float32)}),
        grow=tree.unflatten({path: stacked(grow, np.float32)}),
    )
    np.testing.assert_array_equal(tree.flatten(new)[path], stacked(expected, bool))
    assert tree.flatten(new)["ln_f/bias"] is np.True_
