"""Derivatives written by hand are those that torch takes by itself, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gptjax.model import derivatives, dropout, plain_attention

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def check(function, oracle, operands):
    """The value and the slopes by all operands, for a slope that differs everywhere."""
    ours, pull = jax.vjp(function, *operands)
    slope = normal(*ours.shape)
    doubles = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in operands
    ]
    theirs = oracle(*doubles)
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-5)
    theirs.backward(torch.tensor(slope, dtype=torch.float64))
    for name, own, other in zip("xyz", pull(jnp.asarray(slope)), doubles, strict=False):
        np.testing.assert_allclose(own, other.grad, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    ("x", "kernel", "axes", "formula"),
    [
        ((2, 5, 6), (6, 3, 2, 4), 1, "btd,dchk->btchk"),
        ((2, 5, 3, 4), (3, 4, 6), 2, "bthk,hkd->btd"),
    ],
)
def test_a_product(x, kernel, axes, formula, is_whole):
    """Axes that are merged in a wrong order would give a kernel's slope to others."""
    check(
        lambda x, kernel: derivatives.product(x, kernel, axes, is_whole),
        lambda x, kernel: torch.einsum(formula, x, kernel),
        [normal(*x), normal(*kernel)],
    )


def test_a_layer_norm():
    """The slope by the input has three terms, two of which are means."""
    check(
        lambda x, scale, bias: derivatives.layer_norm(x, scale, bias, 1e-5),
        lambda x, scale, bias: torch.nn.functional.layer_norm(x, (7,), scale, bias),
        [normal(2, 5, 7) + 1, normal(7), normal(7)],
    )


@pytest.mark.parametrize("upcast", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_attention(rate, upcast):
    """Dropped weights count for no value's slope, and for their own not either."""
    causal = np.tril(np.ones((6, 6), bool))
    key = jax.random.key(3) if rate else None
    kept = dropout.apply(rate, jnp.ones((2, 3, 6, 6)), key)
    assert np.asarray(kept == 0).any() == (rate > 0)

    def oracle(q, k, v):
        scores = torch.einsum("bhtk,bhsk->bhts", q, k) * 0.5
        scores = scores.masked_fill(~torch.tensor(causal), -torch.inf)
        weights = torch.softmax(scores, -1) * torch.tensor(np.asarray(kept))
        return torch.einsum("bhts,bhsk->bhtk", weights, v)

    check(
        lambda q, k, v: plain_attention.gather(
            q,
            k,
            v,
            mask_BTS=jnp.asarray(causal)[None],
            scale=0.5,
            upcast=upcast,
            rate=rate,
            key=key,
        ),
        oracle,
        [normal(2, 3, 6, 4) for _ in range(3)],
    )
