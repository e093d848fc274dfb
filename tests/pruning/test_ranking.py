"""Exact counts, ties by index, nesting; against torch and against sorting."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.nn.utils import prune

from gptjax import config, errors, masks, model, sharding, tree
from gptjax.pruning import ranking
from gptjax.pruning.criteria import magnitude, random

SMALL = model.Config(n_layer=3, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
PRUNABLE = config.Pruning(sparsities=(0.5,)).prunable


def prunable_leaves(weight_masks, values):
    flat = tree.flatten(weight_masks)
    values = tree.flatten(values)
    return {
        path: np.asarray(values[path])
        for path, mask in flat.items()
        if masks.is_prunable(mask)
    }


def by_sorting(scores, current, sparsity, scope):
    """The definition: a stable sort, pruned weights first, then by score and index."""
    scores = prunable_leaves(current, scores)
    alive = prunable_leaves(current, current)
    groups = {}
    for path, score in scores.items():
        for layer in range(len(score)):
            group = "all" if scope == "global" else (path, layer)
            groups.setdefault(group, []).append((path, layer))
    new = {path: mask.copy() for path, mask in alive.items()}
    for places in groups.values():
        keys = np.concatenate(
            [
                np.where(alive[p][n], scores[p][n] + 0.0, -np.inf).ravel()
                for p, n in places
            ]
        )
        lowest = np.argsort(keys, kind="stable")[: round(sparsity * len(keys))]
        keep = np.ones(len(keys), bool)
        keep[lowest] = False
        parts = np.split(keep, np.cumsum([scores[p][n].size for p, n in places])[:-1])
        for (path, layer), part in zip(places, parts, strict=True):
            new[path][layer] = part.reshape(scores[path][layer].shape)
    return new


def tied_scores(seed, decimals):
    """Scores of which many are equal, negative ones and both zeros among them."""
    shapes = tree.flatten(model.shapes(SMALL))
    rng = np.random.default_rng(seed)
    return tree.unflatten(
        {
            path: jnp.asarray(rng.normal(size=s.shape).round(decimals), jnp.float32)
            for path, s in shapes.items()
        }
    )


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 100),
    decimals=st.sampled_from([0, 1, 6]),
    steps=st.lists(st.floats(0, 1), min_size=1, max_size=3).map(sorted),
    scope=st.sampled_from(["global", "layer"]),
    on_mesh=st.booleans(),
)
def test_masks_are_those_of_a_stable_sort(seed, decimals, steps, scope, on_mesh):
    """Bisection may miss by one, break ties elsewhere, or lose count across shards."""
    scores = tied_scores(seed, decimals)
    if on_mesh:
        mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
        scores = sharding.place(scores, sharding.param_shardings(mesh, scores))
    current = masks.dense(scores, PRUNABLE)
    for sparsity in steps:
        expected = by_sorting(scores, current, sparsity, scope)
        new = ranking.prune_to(scores, current, sparsity=sparsity, scope=scope)
        chex.assert_trees_all_equal(prunable_leaves(new, new), expected)
        for path, mask in tree.flatten(new).items():
            if masks.is_prunable(mask):
                assert mask.sharding == tree.flatten(scores)[path].sharding
        current = new


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.813, 1.0])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_magnitude_masks_equal_torchs(scope, sparsity):
    """torch.nn.utils.prune is what every published IMP result was made with."""
    params = model.init(jax.random.key(1), SMALL)
    dense = masks.dense(params, PRUNABLE)
    ours = ranking.prune_to(
        magnitude.scores(params), dense, sparsity=sparsity, scope=scope
    )
    layers = [
        (path, layer, torch.nn.Linear(1, 1))
        for path, leaf in prunable_leaves(dense, params).items()
        for layer in range(len(leaf))
    ]
    leaves = prunable_leaves(dense, params)
    for path, layer, module in layers:
        module.weight = torch.nn.Parameter(torch.tensor(leaves[path][layer]))
    if scope == "global":
        prune.global_unstructured(
            [(module, "weight") for _, _, module in layers],
            pruning_method=prune.L1Unstructured,
            amount=sparsity,
        )
    else:
        for _, _, module in layers:
            prune.l1_unstructured(module, "weight", amount=sparsity)
    mine = prunable_leaves(ours, ours)
    for path, layer, module in layers:
        np.testing.assert_array_equal(
            mine[path][layer], module.weight_mask.numpy().astype(bool), err_msg=path
        )


def test_counts_for_each_layer_are_met_exactly():
    """The random control must differ from magnitude in nothing but the choice."""
    params = model.init(jax.random.key(1), SMALL)
    dense = masks.dense(params, PRUNABLE)
    counts = {path: np.array([0, 5, 17]) for path in masks.layer_sizes(dense)}
    scores = random.scores(params, jax.random.key(3))
    new = ranking.prune_counts(scores, dense, counts)
    for path, alive in masks.survivors(new).items():
        np.testing.assert_array_equal(
            masks.layer_sizes(dense)[path] - alive, counts[path]
        )


def test_a_nan_score_stops_the_pruning():
    """NaN has no rank; a diverged model would be pruned at random."""
    params = model.init(jax.random.key(1), SMALL)
    dense = masks.dense(params, PRUNABLE)
    kernel = params["blocks"]["mlp"]["up"]["kernel"]
    params["blocks"]["mlp"]["up"]["kernel"] = kernel.at[1, 2, 3].set(jnp.nan)
    with pytest.raises(errors.UserError, match=r"blocks/mlp/up/kernel: .* NaN"):
        ranking.prune_to(params, dense, sparsity=0.5, scope="global")


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_lower_sparsity_than_before_is_refused(scope):
    """Masks nest: a pruned weight is gone."""
    params = model.init(jax.random.key(1), SMALL)
    dense = masks.dense(params, PRUNABLE)
    half = ranking.prune_to(params, dense, sparsity=0.5, scope=scope)
    with pytest.raises(errors.UserError, match="are pruned already"):
        ranking.prune_to(params, half, sparsity=0.4, scope=scope)
