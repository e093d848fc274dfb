"""Filtered distributions against Hugging Face's own logits processors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import errors
from gptjax.generation import sampling


def _theirs(logits_BV, *, temperature=1.0, top_k=None, top_p=None):
    """What `generate` makes of logits before it samples: its list, in its order."""
    settings = transformers.GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0 if top_k is None else top_k,
        top_p=1.0 if top_p is None else top_p,
    )
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=32)
    warp = transformers.GPT2LMHeadModel(config)._get_logits_processor(
        settings, input_ids_seq_length=1
    )
    return warp(None, torch.tensor(np.asarray(logits_BV))).numpy()


def _ours(logits_BV, **settings):
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    how = sampling.Sampling.make(**settings)
    return np.asarray(jax.jit(sampling.filter_logits)(jnp.asarray(logits_BV), how))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 0.999])
def test_filters_are_those_of_hugging_face(temperature, top_k, top_p):
    """Any other order of the filters, or a threshold off by one token, shows here."""
    logits_BV = np.random.default_rng(0).normal(size=(6, 300), scale=3)
    logits_BV = logits_BV.astype(np.float32)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    expected = _theirs(logits_BV, **settings)
    # To the last bit but one: XLA divides by multiplying with the reciprocal. Tokens
    # cut (-inf) must be the same ones.
    np.testing.assert_allclose(_ours(logits_BV, **settings), expected, rtol=3e-7)


@pytest.mark.parametrize("top_p", [1e-12, 0.125, 0.25, 0.3, 0.5, 0.75, 0.8, 0.875, 1])
@pytest.mark.parametrize(
    "probs",
    [
        [0.25, 0.25, 0.25, 0.25],
        [0.125, 0.5, 0.125, 0.25],
        [0.25, 0.125, 0.125, 0.25, 0.125, 0.125],
        [0.5, 0.5],
        [1.0],
    ],
)
def test_top_p_cuts_the_same_one_of_equal_tokens(probs, top_p):
    """Masses that are exact in binary lie on the boundary itself, and equally likely
    tokens on both sides of it."""
    logits_1V = np.log(np.array([probs], np.float32))
    np.testing.assert_array_equal(
        _ours(logits_1V, top_p=top_p), _theirs(logits_1V, top_p=top_p)
    )


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.9])
def test_zeros_of_both_signs_are_one_logit(top_p):
    """They differ in their bits, by which the boundary is sought."""
    logits_1V = np.array([[0.0, -0.0, 0.0, -0.0, -1.0]], np.float32)
    np.testing.assert_array_equal(
        _ours(logits_1V, top_p=top_p), _theirs(logits_1V, top_p=top_p)
    )


def test_top_k_keeps_all_that_tie_with_the_last():
    """`jax.lax.top_k` alone would keep the first of them."""
    logits_1V = np.array([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]], np.float32)
    ours = _ours(logits_1V, top_k=2)
    np.testing.assert_array_equal(ours, _theirs(logits_1V, top_k=2))
    np.testing.assert_array_equal(np.isfinite(ours[0]), [0, 1, 1, 1, 1, 0])


def test_temperatures_share_one_compilation():
    """As static arguments they would compile the whole decoder anew each time."""
    traces = []

    @jax.jit
    def filtered(logits_BV, how):
        traces.append(how)
        return sampling.filter_logits(logits_BV, how)

    for temperature, top_p in ((0.5, 0.9), (0.7, 0.8), (1.0, 0.1)):
        how = sampling.Sampling.make(temperature=temperature, top_k=3, top_p=top_p)
        filtered(jnp.zeros((1, 8)), how)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature 0.0: it must be positive"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": 0}, "top_k 0: it must be at least 1"),
        ({"top_p": 0.0}, "top_p 0.0: it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    """Each would sample nonsense, or only NaN, without a word."""
    with pytest.raises(errors.UserError, match=message):
        _ours(np.zeros((1, 4), np.float32), **settings)
