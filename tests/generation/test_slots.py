"""Slots: strangers decoded together are written as if each were alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import errors, generation, model
from gptjax.generation import filters, slots

DRAWN = {"do_sample": True, "temperature": 0.8}
CHANGED = {
    "repetition_penalty": 1.5,
    "presence_penalty": 1.0,
    "frequency_penalty": 0.5,
    "sequence_bias": (((3,), 4.0), ((8,), -30.0)),
}
OPTIONS = [
    {},
    CHANGED,
    {**DRAWN, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {**DRAWN, "temperature": 1.3, "top_k": 5, "top_p": 0.9, "min_p": 0.01},
    {**DRAWN, **CHANGED},
]
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4]]
NEW = (17, 22, 9)


@pytest.fixture(scope="module")
def engine():
    """A model that compiles in no time and is sure of some tokens."""
    config = model.Config(
        vocab_size=50, n_positions=48, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.5,
    )  # fmt: skip
    return generation.Engine(config, model.init(jax.random.key(0), config))


@pytest.fixture(scope="module")
def compiled(engine):
    """Three slots that read prompts in small pieces, with all that they compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_CHUNK", 8)
        patch.setattr(slots, "_SHORT_CHUNK", 4)
        made = generation.Slots(engine, slots=3, context=44)
        made.compile()
        yield made


def _write(made, requests, read=100):
    """Token ids of requests (prompt, options, seed), as slots become free."""
    written, places = [[] for _ in requests], {}
    waiting = list(enumerate(requests))
    for _ in itertools.count():
        while waiting and made.free:
            number, (prompt, options, seed) = waiting.pop(0)
            key = generation.key_of(seed, 0)
            places[made.insert(prompt, options, key)] = number
        made.read(read)
        for token in made.step():
            number = places[token.slot]
            written[number].append(token.id)
            if len(written[number]) == requests[number][1].max_new_tokens:
                made.remove(token.slot)
        if not waiting and made.free == made.count:
            return written


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (1, OPTIONS[::4]),
        pytest.param(1, OPTIONS, marks=pytest.mark.slow),
        pytest.param(100, OPTIONS, marks=pytest.mark.slow),
    ],
    ids=["some", "pieces", "whole"],
)
def test_each_is_written_as_if_alone(engine, compiled, read, wanted):
    """A neighbour's temperature, a slot's former owner, a prompt that is still being
    read: any of these would change a token; and nothing of it may compile."""
    requests = [
        (prompt, generation.Options.make({"top_k": 0, **own, "max_new_tokens": new}), n)
        for n, (own, (prompt, new)) in enumerate(
            itertools.product(wanted, zip(PROMPTS, NEW, strict=True))
        )
    ]
    before = slots._step._cache_size(), slots._prefill._cache_size()
    written = _write(compiled, requests, read)
    assert (slots._step._cache_size(), slots._prefill._cache_size()) == before
    for (prompt, options, seed), own in zip(requests, written, strict=True):
        assert own == engine.generate([prompt], options, seed=seed).tokens[0], options


def test_log_probabilities_are_the_models_own(engine, compiled):
    """Not those of the scores that a temperature or a bias has changed."""
    options = generation.Options.make({**DRAWN, **CHANGED, "max_new_tokens": 6})
    prompt, found = PROMPTS[0], []
    slot = compiled.insert(
        prompt, options, generation.key_of(1, 0), wants_log_probs=True
    )
    other = compiled.insert(prompt, options, generation.key_of(2, 0))
    compiled.read(100)
    for _ in range(6):
        step = {token.slot: token for token in compiled.step()}
        assert step[other].log_probs is None
        found.append(step[slot])
    compiled.remove(slot)
    compiled.remove(other)
    params = {**engine.laid.trunk, "blocks": engine.laid.blocks}
    tokens = [*prompt, *(token.id for token in found)]
    logits_BTV = model.apply(engine.config, params, jnp.array([tokens]))
    expected_TV = np.asarray(jax.nn.log_softmax(logits_BTV[0]))[len(prompt) - 1 :]
    for token, expected_V in zip(found, expected_TV, strict=False):
        told = token.log_probs
        assert told.own == pytest.approx(expected_V[token.id], abs=1e-4)
        values = [value for _, value in told.likeliest]
        highest = np.sort(expected_V)[::-1][: generation.LIKELIEST]
        np.testing.assert_allclose(values, highest, atol=1e-4)
        for id_, value in told.likeliest:
            assert value == pytest.approx(expected_V[id_], abs=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"no_repeat_ngram_size": 2},
        {"num_beams": 2},
        {"typical_p": 0.5, "do_sample": True},
        {"sequence_bias": (((3, 4), 1.0),)},
        {"num_return_sequences": 2, "do_sample": True},
    ],
)
def test_options_that_cannot_be_shared_are_refused(given):
    """Left out in silence, they would give a text that was not asked for."""
    name = next(iter(given))
    with pytest.raises(errors.UserError, match=name):
        generation.check_shared(generation.Options.make(given))


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 3000])
def test_top_k_of_each_row_is_top_k(k):
    """Ties at the k-th stay, and zeros of both signs are one number."""
    scores_BV = np.round(np.random.default_rng(k).normal(size=(5, 50)), 1)
    scores_BV = jnp.asarray(scores_BV, jnp.float32).at[0, :9].set(-0.0)
    k_B1 = jnp.full((5, 1), k)
    np.testing.assert_array_equal(
        filters.top_k_each(scores_BV, k_B1), filters.top_k(scores_BV, k)
    )
