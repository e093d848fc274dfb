"""The divergence from what is kept of a teacher's scores, against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model import distilling

TEMPERATURE = 3.0


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def drawn(count, **scales):
    """Random inputs of heads, on which the divergence stands alone."""
    rng = np.random.default_rng(2)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    x, head = normal(2, 5, 8, scale=scales.get("own", 1)), normal(61, 8)
    shown, other = normal(2, 5, 6, scale=scales.get("teacher", 1)), normal(61, 6)
    targets = jnp.asarray(rng.integers(0, 61, (2, 5)))
    weights, taught = jnp.asarray(rng.random((2, 2, 5)), jnp.float32)
    compute = model.Compute(loss_chunk_tokens=3)
    ids, log_chances = distilling.likeliest(
        shown, other, count=count, temperature=TEMPERATURE, compute=compute
    )
    remembered = distilling.Remembered(ids, log_chances, taught)
    rest = (targets, weights)

    def recalled(x, head):
        return distilling.recalled(x, head, *rest, remembered, TEMPERATURE, compute)

    def distilled(x, head):
        teacher = distilling.Teacher(shown, other, taught)
        return distilling.distilled(x, head, *rest, teacher, TEMPERATURE, compute)

    return x, head, recalled, distilled, (shown, other, targets, weights, taught)


def test_with_the_whole_vocabulary_it_is_the_whole_divergence():
    """In float32, before anything is stored: no word is left for the last bucket."""
    x, head, recalled, distilled, _ = drawn(61)
    value, slopes = jax.value_and_grad(recalled, (0, 1))(x, head)
    wanted, wanted_slopes = jax.value_and_grad(distilled, (0, 1))(x, head)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    for got, expected in zip(slopes, wanted_slopes, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 60])
def test_few_words_are_the_formulas(count):
    """In float64 numpy; the slopes by small differences of it."""
    x, head, recalled, distilled, others = drawn(count)
    shown, other, targets, weights, taught = (np.asarray(a, np.float64) for a in others)
    chances = np.exp(log_softmax(shown @ other.T / TEMPERATURE))
    ids = np.argsort(-chances, -1)[..., :count]

    def coarse(p):
        known = np.take_along_axis(p, ids, -1)
        return np.concatenate([known, 1 - known.sum(-1, keepdims=True)], -1)

    def formula(x, head):
        logits = x @ head.T
        places = targets.astype(int)[..., None]
        nll = -np.take_along_axis(log_softmax(logits), places, -1)[..., 0]
        p, q = coarse(chances), coarse(np.exp(log_softmax(logits / TEMPERATURE)))
        kl = (p * np.log(p / q)).sum(-1)
        return (weights * nll + taught * TEMPERATURE**2 * kl).sum()

    value, slopes = jax.value_and_grad(recalled, (0, 1))(x, head)
    given = [np.asarray(a, np.float64) for a in (x, head)]
    assert float(value) == pytest.approx(formula(*given), rel=1e-5)
    # Coarser distributions are never further apart.
    assert float(value) <= 1.000001 * float(distilled(x, head))
    rng = np.random.default_rng(3)
    for place, slope in enumerate(slopes):
        way = rng.normal(size=slope.shape)
        ends = []
        for sign in (1, -1):
            moved = list(given)
            moved[place] = moved[place] + sign * 1e-5 * way
            ends.append(formula(*moved))
        wanted = (ends[0] - ends[1]) / 2e-5
        assert (np.asarray(slope) * way).sum() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("count", [1, 4, 61])
@pytest.mark.parametrize("scales", [(1, 1e4), (1e4, 1), (1e8, 1e8)])
def test_extreme_scores_are_finite(count, scales):
    """Chances of 0 are kept then, and the student gives 0 to what the teacher wants."""
    x, head, recalled, _, _ = drawn(count, own=scales[0], teacher=scales[1])
    value, slopes = jax.value_and_grad(recalled, (0, 1))(x, head)
    assert np.isfinite(value)
    assert all(np.isfinite(slope).all() for slope in slopes)
