"""Budgets over layers against the papers' formulas in float64."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from gptjax import config, errors, masks, model, tree
from gptjax.pruning import allocation, matrices, ranking
from gptjax.pruning.criteria import magnitude

SMALL = model.Config(
    n_layer=3, n_embd=16, n_head=2, n_inner=24, vocab_size=20, n_positions=8
)
PRUNABLE = config.Pruning(sparsities=(0.5,)).prunable
SHAPES = masks.shapes(model.shapes(SMALL), PRUNABLE)


def total_share(sparsities):
    sizes = masks.layer_sizes(SHAPES)
    zeros = sum((sparsities[path] * sizes[path]).sum() for path in sizes)
    return zeros / sum(size.sum() for size in sizes.values())


def erk_by_bisection(sparsity):
    """Densities min(1, e (in + out) / (in out)) with e such that the budget is met."""
    sizes, ratios = {}, {}
    for path, leaf in tree.flatten(SHAPES).items():
        if leaf.ndim:
            layers, inputs, outputs = matrices.shape(path, leaf.shape)
            sizes[path] = layers * inputs * outputs
            ratios[path] = (inputs + outputs) / (inputs * outputs)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(min(1.0, middle * ratios[path]) * sizes[path] for path in sizes)
        if kept < (1 - sparsity) * sum(sizes.values()):
            low = middle
        else:
            high = middle
    return {path: min(1.0, low * ratio) for path, ratio in ratios.items()}


@hypothesis.given(sparsity=st.floats(0.0, 0.99))
@hypothesis.settings(max_examples=30, deadline=None)
def test_erk_densities_are_those_of_the_formula(sparsity):
    """Where layers saturate, one pass of the formula misses the budget."""
    sparsities = allocation.erk(SHAPES, sparsity)
    for path, density in erk_by_bisection(sparsity).items():
        np.testing.assert_allclose(1 - sparsities[path], density, atol=1e-9)
    assert total_share(sparsities) == pytest.approx(sparsity, abs=1e-9)


def test_some_layers_saturate_at_low_sparsity():
    """Without such a case the test above would not see the second pass."""
    lowest = min(leaf.min() for leaf in allocation.erk(SHAPES, 0.05).values())
    assert lowest == 0


def test_as_global_takes_from_each_layer_what_a_global_ranking_takes():
    """It lets rows be ranked apart under the budget of a global ranking."""
    params = model.init(jax.random.key(0), SMALL)
    params["blocks"]["mlp"]["up"]["kernel"] *= 3
    scores = magnitude.scores(params)
    dense = masks.dense(params, PRUNABLE)
    sparsities = allocation.as_global(scores, dense, 0.6)
    by_layers = ranking.prune_layers(scores, dense, sparsities)
    at_once = ranking.prune_to(scores, dense, sparsity=0.6, scope="global")
    jax.tree.map(np.testing.assert_array_equal, by_layers, at_once)
    assert sparsities["blocks/mlp/up/kernel"].max() < 0.6


def owl_inputs():
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.standard_t(2, size=s.shape), jnp.float32),
        model.shapes(SMALL),
    )
    norms = {
        path: rng.exponential(size=matrices.shape(path, leaf.shape)[:2])
        for path, leaf in tree.flatten(SHAPES).items()
        if leaf.ndim
    }
    as_float32 = {path: jnp.asarray(norm, jnp.float32) for path, norm in norms.items()}
    return params, norms, as_float32


def test_owl_densities_are_those_of_the_formula():
    """The mean is of a whole block's scores, and more outliers mean more density."""
    params, norms, as_float32 = owl_inputs()
    dense = masks.dense(params, PRUNABLE)
    found = allocation.owl(params, dense, as_float32, 0.7, outlier=3.0, spread=0.1)
    share = []
    for layer in range(3):
        scores = []
        for path, norm in norms.items():
            leaf = np.asarray(tree.flatten(params)[path], np.float64)
            weight = leaf.reshape(matrices.shape(path, leaf.shape))[layer]
            scores.append((abs(weight) * norm[layer][:, None]).ravel())
        scores = np.concatenate(scores)
        share.append((scores > 3.0 * scores.mean()).mean())
    share = np.array(share)
    scaled = (share - share.min()) / (share.max() - share.min()) * 2 * 0.1
    density = scaled - scaled.mean() + (1 - 0.7)
    for path, sparsities in found.items():
        np.testing.assert_allclose(1 - sparsities, density, atol=1e-6, err_msg=path)
    assert total_share(found) == pytest.approx(0.7)
    assert np.ptp(density) == pytest.approx(0.2)


def test_an_owl_spread_that_leaves_the_range_is_refused():
    """A layer of negative sparsity would fail far from the key that caused it."""
    params, _, norms = owl_inputs()
    dense = masks.dense(params, PRUNABLE)
    with pytest.raises(errors.UserError, match=r"pruning.owl_spread: 0.2 takes"):
        allocation.owl(params, dense, norms, 0.95, outlier=5.0, spread=0.2)


NAMES = {
    "1": lambda path, layer: layer == 1,
    "mlp": lambda path, layer: "/mlp/" in path,
    "attn/out": lambda path, layer: path == "blocks/attn/out/kernel",
    "2/mlp/up": lambda path, layer: (path, layer) == ("blocks/mlp/up/kernel", 2),
}


@hypothesis.given(
    sparsity=st.floats(0.0, 0.99),
    weights=st.dictionaries(st.sampled_from(sorted(NAMES)), st.floats(0.1, 10)),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_weighted_densities_are_in_proportion_and_the_count_is_exact(sparsity, weights):
    """Rounded layer by layer, the whole would be some weights off."""
    found = allocation.weighted(SHAPES, sparsity, weights)
    sizes = masks.layer_sizes(SHAPES)
    raw = {
        path: [
            np.prod([w for name, w in weights.items() if NAMES[name](path, layer)])
            for layer in range(3)
        ]
        for path in sizes
    }
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        kept = sum(
            min(1.0, middle * w) * sizes[path][0] for path in raw for w in raw[path]
        )
        total = sum(int(size.sum()) for size in sizes.values())
        low, high = (middle, high) if kept < (1 - sparsity) * total else (low, middle)
    pruned = 0
    for path, sparsities in found.items():
        counts = sparsities * sizes[path]
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
        pruned += round(counts.sum())
        wanted = [(1 - min(1.0, low * w)) * sizes[path][0] for w in raw[path]]
        np.testing.assert_allclose(counts, wanted, atol=1.001)
    assert pruned == round(sparsity * total)


def test_masks_of_weighted_layers_have_that_many_zeros():
    """What a ranking makes of the shares must be the number they were made for."""
    params = model.init(jax.random.key(0), SMALL)
    dense = masks.dense(params, PRUNABLE)
    shares = allocation.weighted(SHAPES, 0.777, {"0": 3.0, "mlp": 0.7})
    pruned = ranking.prune_layers(magnitude.scores(params), dense, shares)
    alive = sum(int(count.sum()) for count in masks.survivors(pruned).values())
    total = sum(int(size.sum()) for size in masks.layer_sizes(SHAPES).values())
    assert total - alive == round(0.777 * total)


@pytest.mark.parametrize("name", ["3", "mlp/gate", "0/ln_1", "embed"])
def test_a_weight_that_names_no_layer_is_refused(name):
    """Else a block beyond the last would be searched in vain."""
    with pytest.raises(errors.UserError, match=rf"density_weights.{name}: names no"):
        allocation.weighted(SHAPES, 0.5, {name: 2.0})
