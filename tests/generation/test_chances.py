"""What is drawn, against the probabilities that Hugging Face's processors give."""

import numpy as np
import pytest
import scipy.stats
import torch
import transformers

from gptjax import convert, generation

VOCABULARY, ROWS, PROMPT = 40, 6000, [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A random model of stock transformers', and an engine of the same weights."""
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2,
            initializer_range=0.4, bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return theirs, generation.Engine(*convert.load(folder))


def _chances(theirs, tokens, **given):
    """The probabilities of the token after `tokens`, by stock transformers alone."""
    settings = transformers.GenerationConfig(
        **{"do_sample": True, "top_k": 0, "max_new_tokens": 2, **given}
    )
    settings.max_length = len(PROMPT) + 2
    settings._eos_token_tensor = None
    made = theirs._get_logits_processor(settings, input_ids_seq_length=len(PROMPT))
    ids = torch.tensor([tokens])
    with torch.no_grad():
        return made(ids, theirs(ids).logits[:, -1]).softmax(-1)[0].double().numpy()


def _p_value(drawn, chances_V):
    """How likely counts as far from these chances are, if they are the chances."""
    counts_V, expected_V = np.bincount(drawn, minlength=VOCABULARY), chances_V
    expected_V = expected_V / expected_V.sum() * len(drawn)
    assert not counts_V[expected_V == 0].any(), "a token that cannot be drawn"
    # Those expected fewer than 10 times count as one.
    is_rare = expected_V < 10
    pairs = [
        np.append(each[~is_rare], each[is_rare].sum())
        for each in (counts_V, expected_V)
    ]
    counts, expected = (each[pairs[1] > 0] for each in pairs)
    return scipy.stats.chisquare(counts, expected).pvalue


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.7},
        {"epsilon_cutoff": 0.02},
        {"eta_cutoff": 0.05},
        {"top_h": 0.7},
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": [2, 9, 33], "temperature": 1.5, "top_k": 20, "top_p": 0.9},
    ],
    ids=str,
)
def test_draws_follow_hugging_faces_probabilities(both, given):
    """Of the first token, and of the second after the commonest first."""
    theirs, engine = both
    options = generation.Options.make(
        {"do_sample": True, "top_k": 0, "max_new_tokens": 2, **given}
    )
    drawn = np.array(engine.generate([PROMPT] * ROWS, options, seed=1).tokens)
    assert _p_value(drawn[:, 0], _chances(theirs, PROMPT, **given)) > 1e-4
    commonest = np.bincount(drawn[:, 0]).argmax()
    second = drawn[drawn[:, 0] == commonest, 1]
    chances_V = _chances(theirs, [*PROMPT, int(commonest)], **given)
    assert _p_value(second, chances_V) > 1e-4
