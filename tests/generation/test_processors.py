"""Processed scores against Hugging Face's own processors, option by option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import errors, generation
from gptjax.generation import processors

VOCABULARY = 300
EOS = [7, 11]


@pytest.fixture(scope="module")
def stock():
    """Any model of Hugging Face's: it is what makes its list of processors."""
    config = transformers.GPT2Config(
        n_layer=1, n_head=1, n_embd=8, vocab_size=VOCABULARY
    )
    return transformers.GPT2LMHeadModel(config)


def _theirs(stock, scores_BV, tokens_BS, prompt, *, new, **given):
    """What `generate` makes of scores before it chooses: its list, in its order."""
    settings = transformers.GenerationConfig(
        **{"top_k": 0, "max_new_tokens": new, "eos_token_id": EOS, **given}
    )
    settings.max_length = prompt + new
    settings._eos_token_tensor = torch.tensor(EOS)
    made = stock._get_logits_processor(settings, input_ids_seq_length=prompt)
    return made(torch.tensor(tokens_BS), torch.tensor(scores_BV)).numpy()


def _ours(scores_BV, tokens_BS, prompt, *, new, **given):
    options = generation.Options.make({"top_k": 0, "eos_token_id": EOS, **given})
    made = processors.make(options, VOCABULARY)
    rows, length = tokens_BS.shape
    # Beyond its length a sequence may hold anything.
    wide_BS = np.concatenate([tokens_BS, np.full((rows, 5), 3)], axis=1)
    seen = processors.Seen(
        jnp.asarray(wide_BS, jnp.int32),
        *(jnp.full(rows, each) for each in (length, prompt, prompt + new)),
    )
    return np.asarray(jax.jit(processors.process)(made, jnp.asarray(scores_BV), seen))


def _compare(stock, scores_BV, tokens_BS, prompt=4, new=9, **given):
    expected = _theirs(stock, scores_BV, tokens_BS, prompt, new=new, **given)
    ours = _ours(scores_BV, tokens_BS, prompt, new=new, **given)
    # To the last bits: XLA divides by multiplying with the reciprocal. Tokens cut
    # (-inf) must be the same ones.
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def _scores(seed=0, rows=6):
    rng = np.random.default_rng(seed)
    scores_BV = rng.normal(size=(rows, VOCABULARY), scale=3).astype(np.float32)
    # Few tokens, so that some come again.
    return scores_BV, rng.integers(20, size=(rows, 12))


@pytest.mark.parametrize(
    "given",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 20},
        {"bad_words_ids": [[3], [7], [9, 4], [1, 2, 3], [2, 3, 4, 5]]},
        {"sequence_bias": [[[3], 1.5], [[9, 4], -2.5], [[9, 5], 4.0]]},
        {"min_length": 12},
        {"min_length": 13},
        {"min_new_tokens": 8},
        {"min_new_tokens": 9},
        {"forced_eos_token_id": 5},
        {"remove_invalid_values": True},
        {"exponential_decay_length_penalty": (2, 1.3)},
        {"exponential_decay_length_penalty": (8, 1.3)},
        {"suppress_tokens": [1, 5, 9]},
        {"begin_suppress_tokens": [1, 5, 9]},
        {"renormalize_logits": True, "suppress_tokens": [4]},
        {"do_sample": True, "temperature": 0.4},
        {"do_sample": True, "top_k": 5},
        {"do_sample": True, "top_k": 1000},
        {"do_sample": True, "top_p": 0.3},
        {"do_sample": True, "top_p": 0.95},
        {"do_sample": True, "top_h": 0.3},
        {"do_sample": True, "top_h": 0.97},
        {"do_sample": True, "min_p": 0.05},
        {"do_sample": True, "typical_p": 0.2},
        {"do_sample": True, "typical_p": 0.9},
        {"do_sample": True, "epsilon_cutoff": 0.01},
        {"do_sample": True, "eta_cutoff": 0.02},
        {"do_sample": True, "num_beams": 3, "top_p": 0.01, "top_k": 2},
        {"do_sample": True, "num_beams": 3, "min_p": 1.0},
        {"do_sample": True, "num_beams": 3, "typical_p": 0.01},
        {"do_sample": True, "num_beams": 3, "epsilon_cutoff": 0.9},
        {"do_sample": True, "num_beams": 3, "eta_cutoff": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("new", [8, 9])
def test_each_option_changes_scores_as_hugging_face_does(stock, given, new):
    """Both before and at the last token; ends and boundaries off by one show here."""
    _compare(stock, *_scores(), new=new, **given)


@pytest.mark.parametrize("length", [1, 2])
def test_what_hangs_on_the_first_token(stock, length):
    """A prompt of one token is where a forced beginning is due."""
    scores_BV, tokens_BS = _scores()
    given = {"begin_suppress_tokens": [1, 5], "forced_bos_token_id": 9}
    _compare(stock, scores_BV, tokens_BS[:, :length], prompt=1, **given)


def test_infinities_and_nan_are_removed(stock):
    """They are what the option is for."""
    scores_BV, tokens_BS = _scores()
    scores_BV[0, :3] = np.inf, -np.inf, np.nan
    _compare(stock, scores_BV, tokens_BS, remove_invalid_values=True)


@pytest.mark.parametrize("seed", range(16))
def test_options_together_work_in_hugging_faces_order(stock, seed):
    """Any other order of two that both change scores shows here."""
    rng = np.random.default_rng(seed)
    choices = {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[3], [9, 4]],
        "sequence_bias": [[[3], 1.5], [[9, 4], -2.5]],
        "min_new_tokens": 10,
        "exponential_decay_length_penalty": (2, 1.3),
        "suppress_tokens": [1, 5, 9],
        "renormalize_logits": True,
        "temperature": float(rng.uniform(0.3, 2)),
        "top_k": int(rng.integers(1, 60)),
        "top_p": float(rng.uniform(0.2, 1)),
        "top_h": float(rng.uniform(0.5, 1)),
        "min_p": float(rng.uniform(0, 0.1)),
        "typical_p": float(rng.uniform(0.3, 1)),
        "epsilon_cutoff": float(rng.uniform(0, 0.01)),
        "eta_cutoff": float(rng.uniform(0, 0.01)),
    }
    given = {name: each for name, each in choices.items() if rng.random() < 0.5}
    _compare(stock, *_scores(seed), do_sample=True, **given)


@pytest.mark.parametrize("top_p", [1e-12, 0.125, 0.25, 0.3, 0.5, 0.75, 0.8, 0.875])
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
def test_top_p_cuts_the_same_one_of_equal_tokens(stock, probs, top_p):
    """Masses that are exact in binary lie on the boundary itself, and equally likely
    tokens on both sides of it."""
    scores_1V = np.log(np.array([probs], np.float32))
    tokens_1S = np.zeros((1, 3), np.int64)
    _compare(stock, scores_1V, tokens_1S, do_sample=True, top_p=top_p)


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.9])
def test_zeros_of_both_signs_are_one_score(stock, top_p):
    """They differ in their bits, by which the boundary is sought."""
    scores_1V = np.array([[0.0, -0.0, 0.0, -0.0, -1.0]], np.float32)
    tokens_1S = np.zeros((1, 3), np.int64)
    _compare(stock, scores_1V, tokens_1S, do_sample=True, top_p=top_p)


def test_top_k_keeps_all_that_tie_with_the_last():
    """`jax.lax.top_k` alone would keep the first of them."""
    scores_1V = np.array([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]], np.float32)
    how = processors.TopK(2)
    np.testing.assert_array_equal(
        how(jnp.asarray(scores_1V), None), [[-np.inf, 3, 2, 2, 2, -np.inf]]
    )


def test_trying_out_values_compiles_nothing():
    """They are arrays under jit; a service is asked for another one each time."""
    compiled = jax.jit(lambda *given: processors.process(*given))
    for value in (0.5, 0.7, 0.9):
        options = generation.Options.make(
            {
                "do_sample": True,
                "temperature": value,
                "top_p": value,
                "min_p": value,
                "repetition_penalty": 1 + value,
            }
        )
        scores_BV, tokens_BS = _scores()
        seen = processors.Seen(tokens_BS, *(np.full(6, each) for each in (12, 4, 20)))
        compiled(processors.make(options, VOCABULARY), scores_BV, seen)
    assert compiled._cache_size() == 1


def test_count_penalties_count_what_was_written():
    """OpenAI's formula, which Hugging Face has not; prompts do not count."""
    tokens_BS = np.array([[5, 5, 5, 5, 9, 9, 8], [1, 2, 3, 4, 5, 6, 7]])
    scores_BV = np.random.default_rng(0).normal(size=(2, VOCABULARY))
    scores_BV = scores_BV.astype(np.float32)
    expected_BV = scores_BV.copy()
    for row, new in ((0, {9: 2, 8: 1}), (1, {5: 1, 6: 1, 7: 1})):
        for id_, count in new.items():
            expected_BV[row, id_] -= 0.25 + 1.5 * count
    ours_BV = _ours(
        scores_BV, tokens_BS, 4, new=9, presence_penalty=0.25, frequency_penalty=1.5
    )
    np.testing.assert_allclose(ours_BV, expected_BV, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty_alpha": 0.6}, "penalty_alpha 0.6: gptjax has no such option"),
        ({"guidance_scale": 1.5}, "guidance_scale 1.5: gptjax has no such option"),
        ({"temprature": 0.6}, "did you mean temperature?"),
        ({"top_p": 0}, "top_p 0: Input should be greater than 0"),
        ({"min_p": 1.5}, "min_p 1.5: Input should be less than or equal to 1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "not more than num_beams"),
        ({"num_return_sequences": 2}, "all would be the same"),
        ({"num_beams": 2, "stop_strings": "x"}, "does not go with num_beams"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"exponential_decay_length_penalty": (2, 1.2)}, "there is no end"),
        (
            {"forced_eos_token_id": 5, "suppress_tokens": [4, 5]},
            "forced_eos_token_id: all of it is in suppress_tokens",
        ),
    ],
)
def test_options_that_cannot_be_are_named(given, message):
    """Ignored, they would give other texts than were asked for."""
    with pytest.raises(errors.UserError) as told:
        generation.Options.make(given)
    assert message in str(told.value)


def test_what_asks_for_nothing_is_no_option():
    """Files write out the defaults of options that there are not."""
    neutral = {"guidance_scale": None, "num_beam_groups": 1, "use_cache": True}
    assert generation.Options.make(neutral) == generation.Options()


def test_ids_beyond_the_vocabulary_are_named():
    """A scatter would drop them in silence."""
    for name, value in (
        ("suppress_tokens", [300]),
        ("bad_words_ids", [[1, 300]]),
        ("eos_token_id", 300),
        ("sequence_bias", [[[300], 1.0]]),
    ):
        options = generation.Options.make({name: value})
        with pytest.raises(errors.UserError, match=f"{name}: token id 300 is beyond"):
            processors.make(options, VOCABULARY)
