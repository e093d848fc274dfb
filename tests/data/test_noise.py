"""Noise touches as many words as its rate says, in the way that its name says."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from gptjax import assets, config, data, errors
from gptjax.data import cutting

WORDS = 20_000
TEXT = " ".join(f"ab{'cdefgh'[n % 6]}{n:05d}xyz" for n in range(WORDS)) + "\n"


def _noised(text, noise, rate, seed=0):
    return data.noised(text, noise, rate=rate, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.7])
def test_typos_touch_the_asked_fraction_of_words(rate):
    """Each word falls with its own chance r: a count of binomial deviation
    sqrt(N r (1 - r)), and every typo changes the word that it falls on.
    """
    before, after = TEXT.split(), _noised(TEXT, "typos", rate).split()
    touched = sum(one != other for one, other in zip(before, after, strict=True))
    assert abs(touched - rate * WORDS) < 5 * np.sqrt(WORDS * rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.7])
def test_drops_leave_out_the_asked_fraction_of_words(rate):
    """Binomial, as for typos; what stays keeps its order."""
    left = _noised(TEXT, "drops", rate).split()
    dropped = WORDS - len(left)
    assert abs(dropped - rate * WORDS) < 5 * np.sqrt(WORDS * rate * (1 - rate))
    stayed = {*left}
    assert left == [word for word in TEXT.split() if word in stayed]


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.7])
def test_swaps_move_the_asked_fraction_of_words(rate):
    """A step swaps (X = 1) with chance p = r / (2 - r) and goes on by 1 + X words.

    By the renewal theorem N words see N p / (1 + p) = N r / 2 swaps, with the variance
    N Var(X - c (1 + X)) / (1 + p), c = p / (1 + p): that is N p (1 - p) / (1 + p)^3.
    Each moves two words.
    """
    before, after = TEXT.split(), _noised(TEXT, "swaps", rate).split()
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    p = rate / (2 - rate)
    deviation = 2 * np.sqrt(WORDS * p * (1 - p) / (1 + p) ** 3)
    assert abs(moved - rate * WORDS) < 5 * deviation


def test_swapped_words_are_neighbours_and_none_is_lost():
    """A word that wanders on would be another noise, of another name."""
    before, after = TEXT.split(), _noised(TEXT, "swaps", 0.5).split()
    assert sorted(before) == sorted(after)
    places = {word: n for n, word in enumerate(after)}
    assert {abs(places[word] - n) for n, word in enumerate(before)} == {0, 1}
    whole = _noised("a b  c\nd", "swaps", 1.0)
    assert whole == "b a  d\nc"


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    strategies.sampled_from(data.NOISES),
    strategies.text(),
    strategies.integers(0, 9),
    strategies.sampled_from([0.0, 0.3, 1.0]),
)
def test_noise_of_any_text_is_a_text(noise, text, seed, rate):
    """Spaces alone, no letters, other scripts: nothing fails; rate 0 changes no byte;
    a text with words keeps one, and the same seed gives the same noise.
    """
    found = _noised(text, noise, rate, seed)
    if rate == 0:
        assert found == text
    assert bool(found.strip()) == bool(text.strip())
    assert found == _noised(text, noise, rate, seed)


@pytest.mark.parametrize("noise", ["typos", "drops"])
def test_what_is_touched_at_a_rate_is_touched_at_a_higher_one(noise):
    """So the curves of one seed rise, and do not jump from rate to rate."""
    before = assets.text("austen.valid").read_text(encoding="utf-8")[:20_000]
    low, high = (_noised(before, noise, rate) for rate in (0.1, 0.3))
    assert low != _noised(before, noise, 0.1, seed=1)
    if noise == "typos":
        lines = zip(before.split(), low.split(), high.split(), strict=True)
        assert all(one in (clean, other) for clean, one, other in lines)
    else:
        left = collections.Counter(low.split())
        assert collections.Counter(high.split()) <= left


def test_a_typo_is_one_slip_of_a_writer():
    """Of four kinds, each as often: a fifth would be noise of another name.

    Of N typos each kind has a quarter, with the deviation sqrt(N 3 / 16).
    """
    word = "Dust"
    near = {"D": "SFERXC", "u": "yihj", "s": "adwezx", "t": "ryfg"}
    kinds = {
        "struck": {
            word[:n] + other + word[n + 1 :]
            for n, letter in enumerate(word)
            for other in near[letter]
        },
        "left out": {word[:n] + word[n + 1 :] for n in range(4)},
        "doubled": {word[:n] + word[n] + word[n:] for n in range(4)},
        "exchanged": {"uDst", "Dsut", "Duts"},
    }
    count = 4000
    found = collections.Counter(_noised(f"{word} " * count, "typos", 1.0).split())
    assert {*found} == set.union(*kinds.values())
    for slips in kinds.values():
        share = sum(found[slip] for slip in slips)
        assert abs(share - count / 4) < 5 * np.sqrt(count * 3 / 16)


def test_words_without_letters_have_no_typos():
    """Numbers have no neighbours that a reader would take for them."""
    assert _noised("1811, 3.14 -- !?", "typos", 1.0) == "1811, 3.14 -- !?"


def test_lines_stay_where_words_are_dropped():
    """A line that runs into the next would be one more change, and an untold one."""
    text = " one two\nthree four\n\nfive six\n"
    for seed in range(20):
        found = _noised(text, "drops", 0.5, seed)
        assert found.endswith("\n")
        assert "  " not in found.replace("\n", "")
        if "one" in found and "three" in found:
            assert found.index("\n") < found.index("three")
        if "four" in found and "six" in found:
            assert "\n\n" in found


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_rate_that_is_no_fraction_is_refused(rate):
    """5 for 5 % would destroy every word, and the curve would still be drawn."""
    with pytest.raises(errors.UserError, match="fraction of words"):
        data.check_noise(["typos"], [0.1, rate])


def test_an_unknown_noise_is_refused_with_the_known_ones():
    """Whoever mistypes it must not look for the names."""
    with pytest.raises(errors.UserError, match="'typo': it is one of typos, swaps, dr"):
        data.check_noise(["typo"], [])


def test_texts_at_hand_have_the_tokens_of_files(tmp_path, monkeypatch):
    """Noised texts are never written: their tokens must be those that a file has,
    where a long one is cut, too.
    """
    text = assets.text("austen.valid").read_text(encoding="utf-8")[:20_000]
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 2000)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    tokenizer = data.Tokenizer(assets.checkpoint())
    expected = data.tokenize(
        config.Source(path=str(path)),
        tokenizer,
        append_eos=False,
        workers=1,
        cache_dir=str(tmp_path / "cache"),
        vocab_size=None,
        progress=False,
    )
    found = data.tokenize_here([text, "", "It is."], tokenizer)
    count = len(expected)
    np.testing.assert_array_equal(found.ids[:count], expected.ids[:count])
    assert tokenizer.backend.decode(found.ids[count:].tolist()) == "It is."
    assert found.document_starts.tolist() == [0, count, count]
    assert found.bytes == expected.bytes + len("It is.")
