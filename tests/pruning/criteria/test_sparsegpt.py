"""SparseGPT beside float64 NumPy written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax import errors, sharding
from gptjax.pruning.criteria import sparsegpt


def make_problem(inputs, outputs, *, seed=0, diagonal=False):
    """Weights and the Hessian of inputs of unlike sizes, correlated or not."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(inputs, outputs)).astype(np.float32)
    x = rng.normal(size=(4 * inputs, inputs)) @ rng.normal(size=(inputs, inputs))
    x *= np.exp(rng.normal(size=inputs))
    hessian = (x.T @ x / len(x)).astype(np.float32)
    return weights, np.diag(np.diag(hessian)) if diagonal else hessian


def run(weights, hessian, *, alive=None, pattern="unstructured", sparsity=None):
    """`sparsegpt.prune` on one device, as NumPy arrays."""
    alive = np.ones(weights.shape, bool) if alive is None else alive
    new, mask, _ = sparsegpt.prune(
        jnp.asarray(weights),
        jnp.asarray(alive),
        jnp.asarray(hessian),
        pattern=pattern,
        sparsity=sparsity,
        mesh=sharding.make_mesh(data=1, devices=jax.devices()[:1]),
        path="w",
    )
    return np.asarray(new), np.asarray(mask)


def dampened(hessian):
    """H with 1 % of its mean diagonal added, in float64."""
    hessian = hessian.astype(np.float64)
    return hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))


def error(weights, new, hessian):
    """The summed squared error of the outputs, under the dampened Hessian."""
    off = new.astype(np.float64) - weights
    return np.einsum("io,ij,jo->", off, dampened(hessian), off)


def algorithm_1(weights, hessian, *, sparsity=None, n_of_m=None, block=128):
    """The paper's algorithm, column by column, in float64."""
    w = weights.astype(np.float64)
    u = np.linalg.cholesky(np.linalg.inv(dampened(hessian))).T
    inputs, outputs = w.shape
    mask = np.ones(w.shape, bool)
    pruned = 0
    for i in range(inputs):
        if n_of_m is None and i % block == 0:
            end = min(i + block, inputs)
            score = (w[i:end] / np.diag(u)[i:end, None]) ** 2
            wanted = round(sparsity * inputs * outputs) * end / inputs
            count = int(np.floor(wanted + 0.5)) - pruned
            pruned += count
            flat = np.ones(score.size, bool)
            flat[np.argsort(score.ravel(), kind="stable")[:count]] = False
            mask[i:end] = flat.reshape(score.shape)
        if n_of_m is not None and i % n_of_m[1] == 0:
            n, m = n_of_m
            score = (w[i : i + m] / np.diag(u)[i : i + m, None]) ** 2
            for output in range(outputs):
                order = np.argsort(score[:, output], kind="stable")
                mask[i + order[: m - n], output] = False
        lost = np.where(mask[i], 0, w[i] / u[i, i])
        w[i:] -= np.outer(u[i, i:], lost)
        w[i] = np.where(mask[i], w[i], 0)
    return w, mask


def brute_force_obs(weights, hessian, count):
    """Removes the cheapest weight of all, mends all others, and so on, `count` times.

    Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain
    Surgeon", 1992.
    """
    w, h = weights.astype(np.float64), dampened(hessian)
    mask = np.ones(w.shape, bool)
    inverse = [np.linalg.inv(h) for _ in range(w.shape[1])]
    for _ in range(count):
        costs = np.stack([w[:, o] ** 2 / np.diag(g) for o, g in enumerate(inverse)], 1)
        costs[~mask] = np.inf
        i, o = np.unravel_index(np.argmin(costs), costs.shape)
        mask[i, o] = False
        kept = np.flatnonzero(mask[:, o])
        w[:, o] -= inverse[o][:, i] * w[i, o] / inverse[o][i, i]
        w[~mask[:, o], o] = 0
        inverse[o] = np.eye(len(h))
        inverse[o][np.ix_(kept, kept)] = np.linalg.inv(h[np.ix_(kept, kept)])
    return w, mask


def least_squares(weights, hessian, mask):
    """The best weights of all under a mask."""
    h, w = dampened(hessian), weights.astype(np.float64)
    best = np.zeros_like(w)
    for o in range(w.shape[1]):
        kept = np.flatnonzero(mask[:, o])
        best[kept, o] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ w[:, o])
    return best


@pytest.mark.parametrize(
    "case",
    [
        {"inputs": 64, "outputs": 24, "sparsity": 0.5},
        {"inputs": 300, "outputs": 16, "sparsity": 0.61803},
        {"inputs": 256, "outputs": 9, "pattern": "2:4"},
        {"inputs": 120, "outputs": 8, "pattern": "3:5"},
        {"inputs": 136, "outputs": 8, "pattern": "4:8"},
    ],
    ids=str,
)
def test_weights_and_mask_are_those_of_the_paper(case):
    """A block that ends early, a group across blocks, an update applied twice: each
    still gives plausible weights."""
    weights, hessian = make_problem(case["inputs"], case["outputs"])
    pattern, sparsity = case.get("pattern", "unstructured"), case.get("sparsity")
    new, mask = run(weights, hessian, pattern=pattern, sparsity=sparsity)
    n_of_m = tuple(map(int, pattern.split(":"))) if ":" in pattern else None
    wanted, wanted_mask = algorithm_1(
        weights, hessian, sparsity=sparsity, n_of_m=n_of_m
    )
    np.testing.assert_array_equal(mask, wanted_mask)
    np.testing.assert_allclose(new, wanted, rtol=0, atol=2e-3)
    assert not new[~mask].any()
    if n_of_m is None:
        assert (~mask).sum() == round(sparsity * mask.size)
    else:
        groups = mask.reshape(-1, n_of_m[1], case["outputs"]).sum(1)
        assert (groups == n_of_m[0]).all()


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_on_a_diagonal_hessian_it_is_the_brute_force_solver(sparsity):
    """Where inputs do not correlate nothing can be mended, and OBS is a ranking."""
    weights, hessian = make_problem(40, 12, diagonal=True)
    new, mask = run(weights, hessian, sparsity=sparsity)
    wanted, wanted_mask = brute_force_obs(weights, hessian, round(sparsity * mask.size))
    np.testing.assert_array_equal(mask, wanted_mask)
    np.testing.assert_allclose(new, wanted, rtol=0, atol=1e-6)
    assert error(weights, new, hessian) <= error(weights, wanted, hessian) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_its_error_lies_between_the_least_possible_and_magnitudes(seed):
    """Mending the wrong way round would be worse than not mending at all."""
    weights, hessian = make_problem(48, 16, seed=seed)
    new, mask = run(weights, hessian, sparsity=0.5)
    got = error(weights, new, hessian)
    best = least_squares(weights, hessian, mask)
    assert error(weights, best, hessian) <= got * (1 + 1e-5)
    assert got < error(weights, np.where(mask, weights, 0), hessian)
    by_size = np.ones(mask.size, bool)
    by_size[np.argsort(np.abs(weights), axis=None)[: mask.size // 2]] = False
    by_size = by_size.reshape(mask.shape)
    assert got < error(weights, np.where(by_size, weights, 0), hessian)


def test_where_the_first_inputs_go_the_others_are_the_best_possible():
    """Removing inputs in order, with all later ones free, is exact elimination."""
    weights, hessian = make_problem(160, 8)
    alive = np.ones(weights.shape, bool)
    for output in range(8):
        alive[: 17 * output, output] = False
    new, mask = run(weights, hessian, alive=alive, sparsity=(~alive).mean())
    np.testing.assert_array_equal(mask, alive)
    best = least_squares(weights, hessian, mask)
    np.testing.assert_allclose(new, best, rtol=0, atol=2e-3)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_masks_nest(pattern):
    """A second round that revived a weight would break every mask after it."""
    weights, hessian = make_problem(140, 8)
    rng = np.random.default_rng(1)
    # Most of what is pruned lies in few inputs, more than their share in the second.
    alive = rng.random(weights.shape) > np.linspace(0.9, 0, 140)[:, None]
    weights = np.where(alive, weights, 0)
    new, mask = run(weights, hessian, alive=alive, pattern=pattern, sparsity=0.7)
    assert not (mask & ~alive).any()
    assert not new[~mask].any()
    if pattern == "unstructured":
        assert (~mask).sum() == round(0.7 * mask.size)
    else:
        kept, had = (m.reshape(-1, 4, 8).sum(1) for m in (mask, alive))
        np.testing.assert_array_equal(kept, np.minimum(had, 2))


def test_inputs_never_seen_go_first():
    """Their rows of the Hessian are 0, which no inverse has, and they cost nothing."""
    weights, hessian = make_problem(32, 8)
    weights[5:9] *= 100
    hessian[5:9], hessian[:, 5:9] = 0, 0
    new, mask = run(weights, hessian, sparsity=0.25)
    assert not mask[5:9].any()
    assert np.isfinite(new).all()
    new, mask = run(weights, np.zeros_like(hessian), sparsity=0.25)
    assert np.isfinite(new).all()
    assert (~mask).sum() == round(0.25 * mask.size)


def test_a_hessian_of_fewer_tokens_than_inputs_is_solved():
    """One token: all but one direction have only the dampening to stand on."""
    x = np.random.default_rng(0).normal(size=(1, 96)).astype(np.float32) * 1e4
    weights, _ = make_problem(96, 8)
    new, mask = run(weights, x.T @ x, sparsity=0.5)
    assert np.isfinite(new).all()
    assert (~mask).sum() == mask.size // 2


def test_bad_input_is_told_in_a_line():
    """Each would end in a NaN or a traceback a long time later."""
    weights, hessian = make_problem(36, 8)
    with pytest.raises(errors.UserError, match="3:8 does not divide w: 36 inputs"):
        run(weights, hessian, pattern="3:8")
    alive = np.zeros(weights.shape, bool)
    with pytest.raises(errors.UserError, match="144 weights, where 288 are pruned"):
        run(weights, hessian, alive=alive, sparsity=0.5)
    with pytest.raises(errors.UserError, match="not finite"):
        run(weights, np.full_like(hessian, np.nan), sparsity=0.5)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([0.0, 1e-45, 0.5, 1.0, 1e30]), min_size=24, max_size=24
    ),
    alive=st.lists(st.booleans(), min_size=24, max_size=24),
    fraction=st.floats(0, 1),
)
def test_the_lowest_are_exactly_as_many_with_ties_by_index(values, alive, fraction):
    """Bisection over bits: one comparison off by one and a tie goes too many."""
    values, alive = np.array(values, np.float32), np.array(alive)
    count = int(fraction * alive.sum())
    order = [i for i in np.argsort(values, kind="stable") if alive[i]]
    wanted = np.zeros(24, bool)
    wanted[order[:count]] = True
    got = jax.jit(sparsegpt.lowest)(
        values.reshape(4, 6), alive.reshape(4, 6), np.int32(count)
    )
    np.testing.assert_array_equal(np.asarray(got).ravel(), wanted)
