"""A change of masks on a training state: what it zeroes and what it leaves."""

import json

import jax
import numpy as np
import optax
import pytest

from gptjax import config, masks, model, sharding, training, tree
from gptjax.training import optimizer, state, updates

SMALL = model.Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12)
PRUNABLE = config.Pruning(sparsities=(0.5,)).prunable
KERNEL = "blocks/mlp/up/kernel"


def drawn(dense, seed):
    """Masks under which each prunable weight survives by the toss of a coin."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda mask: (
            jax.device_put(rng.random(mask.shape) < 0.5, mask.sharding)
            if masks.is_prunable(mask)
            else mask
        ),
        dense,
    )


def changed(name, **options):
    """A state full of ones, before and after its masks change."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    params = model.init(jax.random.key(0), SMALL)
    params = jax.device_put(params, sharding.param_shardings(mesh, params))
    settings = config.Optimizer(name=name, options=options)
    chain = optimizer.make_optimizer(
        settings, optimizer.make_schedule(settings, steps=9), params
    )
    dense = masks.dense(params, PRUNABLE)
    old, new = drawn(dense, 0), drawn(dense, 1)
    places = state.shardings(mesh, params, dense, chain)
    current = state.make_start(chain, places)(params, old, 3)
    # As after many steps: everything that an optimizer keeps is of some size.
    moved = jax.tree.map(lambda leaf: leaf * 0 + 7, current.opt_state)
    current = training.TrainState(current.step, current.params, current.bits, moved)
    before = jax.tree.map(np.array, current)
    current, figures = updates.change_masks(
        updates.make_change(chain, places), current, new
    )
    assert jax.tree.map(lambda leaf: leaf.sharding, current.params) == places.params
    return before, jax.tree.map(np.array, current), figures


def test_only_what_survives_before_and_after_keeps_value_and_moments():
    """Momentum from before it was pruned would push a regrown weight at once."""
    before, after, figures = changed("adam")
    old, new = tree.flatten(before.masks)[KERNEL], tree.flatten(after.masks)[KERNEL]
    kept = old & new
    assert (new & ~old).any()
    assert (old & ~new).any()
    weights = tree.flatten(after.params)[KERNEL]
    np.testing.assert_array_equal(
        weights, np.where(kept, tree.flatten(before.params)[KERNEL], 0)
    )
    adam = optax.tree_utils.tree_get(after.opt_state, "ScaleByAdamState")
    for moment in (adam.mu, adam.nu):
        np.testing.assert_array_equal(
            tree.flatten(moment)[KERNEL], np.where(kept, 7, 0)
        )
        assert (tree.flatten(moment)["embed/tokens/embedding"] == 7).all()
    assert adam.count == 7
    assert after.step == 3
    pairs = [
        (a, b)
        for a, b in zip(
            jax.tree.leaves(before.masks), jax.tree.leaves(after.masks), strict=True
        )
        if a.ndim
    ]
    assert figures == {
        "sparsity": pytest.approx(
            sum((~b).sum() for _, b in pairs) / sum(b.size for _, b in pairs)
        ),
        "pruned": sum((a & ~b).sum() for a, b in pairs),
        "grown": sum((b & ~a).sum() for a, b in pairs),
    }


def test_what_an_optimizer_starts_with_need_not_be_zero():
    """adagrad divides by its sum of squares: from 0 its first step would be huge."""
    before, after, _ = changed("adagrad", initial_accumulator_value=0.25)
    kept = tree.flatten(before.masks)[KERNEL] & tree.flatten(after.masks)[KERNEL]
    sums = optax.tree_utils.tree_get(after.opt_state, "sum_of_squares")
    np.testing.assert_array_equal(tree.flatten(sums)[KERNEL], np.where(kept, 7, 0.25))


def test_statistics_of_whole_rows_are_left_alone():
    """adafactor's belong to many weights, of which some survive."""
    _, after, _ = changed("adafactor", min_dim_size_to_factor=8)
    rows = optax.tree_utils.tree_get(after.opt_state, "v_row")
    assert tree.flatten(rows)[KERNEL].ndim < 3
    assert (tree.flatten(rows)[KERNEL] == 7).all()


class Scripted:
    """Changes masks at given steps, and remembers when it was asked."""

    def __init__(self, steps):
        self.steps, self.asked, self.given = steps, [], {}

    def is_due(self, step):
        self.asked.append(step)
        return step in self.steps

    def update(self, state_, batch):
        assert int(state_.step) == self.asked[-1]
        self.given[self.asked[-1]] = np.array(batch["tokens"])
        return drawn(state_.masks, self.asked[-1])


def test_masks_change_before_the_first_step_and_after_each_that_is_due(
    tiny_settings, tmp_path
):
    """A change at step 0 or at the very last is easily never made."""
    settings = tiny_settings(
        tmp_path / "run", **{"training.steps": 3, "pruning.sparsities": [0.5]}
    )
    (tmp_path / "run").mkdir()
    prepared = training.prepare(settings)
    trainer = prepared.trainer(schedule_steps=3)
    script = Scripted({0, 1, 3})
    last, _ = training.fit(
        trainer,
        training.Phase(name="00", start=0, end=3, updates=script),
        load_params=prepared.load_params,
        weight_masks=trainer.dense_masks(),
    )
    trainer.log.close()
    assert script.asked == [0, 1, 2, 3]
    # The first batch serves twice: before it is learned from, and after.
    np.testing.assert_array_equal(script.given[0], script.given[1])
    assert (script.given[1] != script.given[3]).any()
    expected = drawn(last.masks, 3)
    for mask, leaf, wanted in zip(
        *map(jax.tree.leaves, (last.masks, last.params, expected)), strict=True
    ):
        np.testing.assert_array_equal(mask, wanted)
        if masks.is_prunable(mask):
            assert (np.asarray(leaf)[~np.asarray(mask)] == 0).all()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [r["step"] for r in logged if "sparsity" in r] == [0, 1, 3]
    assert trainer.compilations == 1
