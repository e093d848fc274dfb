"""Patterns against definitions in numpy: rows, N:M, tiles; nesting, ties, meshes."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from gptjax import errors, masks, model, sharding, tree
from gptjax.pruning import matrices, selection

SMALL = model.Config(n_layer=2, n_embd=16, n_head=2, vocab_size=24, n_positions=8)
# An embedding among them: a leaf without layers.
PRUNABLE = (
    (r"blocks/(attn|mlp)/\w+/kernel", True),
    (r"embed/tokens/.*", True),
    (r".*", False),
)
SHAPES = model.shapes(SMALL)
IS_PRUNABLE = tree.match(PRUNABLE, tree.flatten(SHAPES), table="prunable")


def tied_scores(seed, decimals, on_mesh):
    """Scores of which many are equal; never negative, as criteria give them."""
    rng = np.random.default_rng(seed)
    scores = jax.tree.map(
        lambda s: jnp.asarray(abs(rng.normal(size=s.shape)).round(decimals), "float32"),
        SHAPES,
    )
    if on_mesh:
        mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
        scores = sharding.place(scores, sharding.param_shardings(mesh, scores))
    return scores


def as_matrices(values):
    """Each prunable leaf as numpy (layers, inputs, outputs)."""
    return {
        path: np.asarray(leaf).reshape(matrices.shape(path, leaf.shape))
        for path, leaf in tree.flatten(values).items()
        if IS_PRUNABLE[path]
    }


def uniform(current, sparsity):
    sizes = masks.layer_sizes(current)
    return {path: np.full(size.shape, sparsity) for path, size in sizes.items()}


def lowest(scores, alive, count):
    """Which entries of a vector survive, by a stable sort."""
    order = np.argsort(np.where(alive, scores, -np.inf), kind="stable")
    keep = np.ones(len(scores), bool)
    keep[order[:count]] = False
    return keep & alive


drawn = hypothesis.given(
    seed=st.integers(0, 100),
    decimals=st.sampled_from([0, 1, 6]),
    on_mesh=st.booleans(),
)
few = hypothesis.settings(max_examples=6, deadline=None)


@few
@drawn
def test_rows_lose_the_lowest_inputs_of_each_output(seed, decimals, on_mesh):
    """Wanda compares within an output; over the wrong axis it is another method."""
    scores = tied_scores(seed, decimals, on_mesh)
    current = masks.dense(scores, PRUNABLE)
    for sparsity in (0.3, 0.5):
        sparsities = uniform(current, sparsity)
        sparsities["blocks/mlp/up/kernel"] = np.array([0.1 + sparsity, 0.25])
        new = selection.select(
            scores,
            current,
            pattern="unstructured",
            scope="row",
            sparsities=sparsities,
        )
        old, got = as_matrices(current), as_matrices(new)
        for path, score in as_matrices(scores).items():
            for layer, output in np.ndindex(score.shape[0], score.shape[2]):
                want = round(sparsities[path][layer] * score.shape[1])
                column = (layer, slice(None), output)
                alive = old[path][column]
                expected = lowest(score[column], alive, max(want, int((~alive).sum())))
                np.testing.assert_array_equal(got[path][column], expected)
        current = new


@few
@drawn
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:2", "3:4"])
def test_n_of_m_consecutive_inputs_survive(pattern, seed, decimals, on_mesh):
    """Sparse tensor cores read groups along the inputs of one output."""
    keep, of = map(int, pattern.split(":"))
    scores = tied_scores(seed, decimals, on_mesh)
    current = masks.dense(scores, PRUNABLE)
    new = selection.select(
        scores, current, pattern=pattern, scope="layer", sparsities=1 - keep / of
    )
    got = as_matrices(new)
    for path, score in as_matrices(scores).items():
        for layer, output in np.ndindex(score.shape[0], score.shape[2]):
            for start in range(0, score.shape[1], of):
                group = (layer, slice(start, start + of), output)
                expected = lowest(score[group], np.ones(of, bool), of - keep)
                np.testing.assert_array_equal(got[path][group], expected)
        leaf = tree.flatten(new)[path]
        assert leaf.sharding == tree.flatten(scores)[path].sharding


@few
@drawn
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_tiles_go_as_one_by_the_sum_of_their_scores(scope, seed, decimals, on_mesh):
    """A kernel that skips tiles gains nothing from a tile that is nearly empty."""
    scores = tied_scores(seed, decimals, on_mesh)
    current = masks.dense(scores, PRUNABLE)
    new = selection.select(
        scores,
        current,
        pattern="4x2",
        scope=scope,
        sparsities=0.5 if scope == "global" else uniform(current, 0.5),
    )
    groups = {}
    for path, score in as_matrices(scores).items():
        layers, inputs, outputs = score.shape
        cut = score.reshape(layers, inputs // 4, 4, outputs // 2, 2)
        alive = as_matrices(new)[path].reshape(cut.shape)
        assert (alive.any((2, 4)) == alive.all((2, 4))).all(), "a tile was split"
        sums = cut.sum((2, 4), dtype=np.float32)
        for layer in range(layers):
            key = "all" if scope == "global" else (path, layer)
            pair = (sums[layer].ravel(), alive.all((2, 4))[layer].ravel())
            groups.setdefault(key, []).append(pair)
    for pairs in groups.values():
        sums, alive = (np.concatenate(part) for part in zip(*pairs, strict=True))
        assert (~alive).sum() == round(0.5 * len(sums))
        assert sums[~alive].max() <= sums[alive].min() + 1e-5


def test_a_pattern_keeps_what_was_pruned_before():
    """A weight that comes back between rounds was never pruned."""
    scores = tied_scores(0, 6, False)
    dense = masks.dense(scores, PRUNABLE)
    half = selection.select(
        scores, dense, pattern="unstructured", scope="global", sparsities=0.4
    )
    backwards = jax.tree.map(lambda x: -x, scores)
    for pattern in ("2:4", "2x2"):
        new = selection.select(
            backwards,
            half,
            pattern=pattern,
            scope="layer",
            sparsities=uniform(half, 0.6),
        )
        for path, old in as_matrices(half).items():
            assert not (as_matrices(new)[path] & ~old).any(), path


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("2:5", "2:5 does not divide blocks/attn/out/kernel: 16 inputs"),
        ("4x7", "4x7 does not divide blocks/attn/out/kernel: 16 outputs"),
    ],
)
def test_a_pattern_that_does_not_divide_a_leaf_is_refused(pattern, message):
    """A last group of another size would break what the pattern promises."""
    scores = tied_scores(0, 6, False)
    with pytest.raises(errors.UserError, match=message):
        selection.select(
            scores,
            masks.dense(scores, PRUNABLE),
            pattern=pattern,
            scope="layer",
            sparsities=0.5,
        )
