"""Texts with the slips of writers and listeners: letters mistyped, words out of place.

After Belinkov and Bisk, "Synthetic and Natural Noise Both Break Neural Machine
Translation", 2017, arXiv:1711.02173. Every noise has one parameter, its rate: the
fraction of words that it touches, so that rates of one noise can be held against those
of another.

A word is what stands between spaces, with its punctuation; in Chinese and Japanese it
is a character.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from gptjax import errors
from gptjax.data import augmentation

_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
"""Of a keyboard's letters, with how far each row stands to the right, in keys."""
_REACH = 1.3
"""In keys: from a key's middle to those of the six around it, and to no others."""


def noised(text: str, noise: str, *, rate: float, rng: np.random.Generator) -> str:
    """A text with noise; at rate 0 the very text.

    With the same generator, a word that typos or drops touch at one rate they touch at
    every higher one, in the same way.

    Args:
      noise: `typos` (in a word one letter becomes a neighbour on an English keyboard,
        is left out, doubled, or takes its neighbour's place; each as often, where the
        word has room for it), `swaps` (two words, one after the other, in each other's
        place) or `drops` (words left out; one stays).
      rate: the fraction of words that it touches, on average: of those that have a
        letter for typos, of those that change their place for swaps; 0 to 1.
    """
    check_noise([noise], [rate])
    words = augmentation.split(text)
    # Of the spaces before the first word no noise makes a word.
    start = words.pop(0)[1] if words and not words[0][0] else ""
    if not words:
        return text
    return start + augmentation.join(_NOISES[noise](words, rate, rng))


def check_noise(noises: Sequence[str], rates: Sequence[float]) -> None:
    """Raises a `UserError` unless there are such noises and rates."""
    for noise in noises:
        if noise not in _NOISES:
            raise errors.UserError(f"noise {noise!r}: it is one of {', '.join(NOISES)}")
    for rate in rates:
        if not 0 <= rate <= 1:  # nor NaN
            raise errors.UserError(
                f"rate {rate:g}: it is the fraction of words that noise touches, from "
                "0 to 1"
            )


def _typos(
    words: augmentation.Words, rate: float, rng: np.random.Generator
) -> augmentation.Words:
    # Drawn for all words, so that those touched at a lower rate change alike.
    touched_W, rolls_W3 = rng.random(len(words)) < rate, rng.random((len(words), 3))
    return [
        (_mistyped(word, *rolls_3) if is_touched else word, gap)
        for (word, gap), is_touched, rolls_3 in zip(
            words, touched_W, rolls_W3, strict=True
        )
    ]


def _mistyped(word: str, what: float, where: float, which: float) -> str:
    """A word with one slip in it; rolls from 0 to 1 choose. Without letters, itself."""
    letters = [place for place, sign in enumerate(word) if sign.isalpha()]
    keys = [place for place in letters if word[place].lower() in _neighbours()]
    pairs = [
        place
        for place in letters
        if word[place + 1 : place + 2].isalpha() and word[place] != word[place + 1]
    ]
    slips: list[tuple[Callable[[int], str], list[int]]] = [
        (lambda n: word[:n] + _struck(word[n], which) + word[n + 1 :], keys),
        # A word of one letter would be gone.
        (lambda n: word[:n] + word[n + 1 :], letters if len(letters) > 1 else []),
        (lambda n: word[:n] + word[n] + word[n:], letters),
        (lambda n: word[:n] + word[n + 1] + word[n] + word[n + 2 :], pairs),
    ]
    possible = [slip for slip in slips if slip[1]]
    if not possible:
        return word
    slip, places = possible[int(what * len(possible))]
    return slip(places[int(where * len(places))])


def _struck(letter: str, which: float) -> str:
    """A neighbour of a letter on the keyboard, as large as it."""
    near = _neighbours()[letter.lower()]
    found = near[int(which * len(near))]
    return found.upper() if letter.isupper() else found


@functools.cache
def _neighbours() -> dict[str, str]:
    """The letters around each letter of an English keyboard."""
    places = {
        letter: (number + shift, row)
        for row, (letters, shift) in enumerate(_ROWS)
        for number, letter in enumerate(letters)
    }
    return {
        one: "".join(
            other
            for other, place in places.items()
            if other != one and math.dist(place, own) < _REACH
        )
        for one, own in places.items()
    }


def _swaps(
    words: augmentation.Words, rate: float, rng: np.random.Generator
) -> augmentation.Words:
    """With words in their neighbours' place, the gaps left where they are."""
    # Whoever goes from left to right, swaps with chance p and then steps over both
    # words, moves 2 p of every 1 + p words; that is the rate for this p.
    swapped_W = rng.random(len(words)) < rate / (2 - rate)
    changed = list(words)
    place = 0
    while place < len(words) - 1:
        if swapped_W[place]:
            (one, gap), (other, other_gap) = words[place : place + 2]
            changed[place : place + 2] = [(other, gap), (one, other_gap)]
        place += 2 if swapped_W[place] else 1
    return changed


def _drops(
    words: augmentation.Words, rate: float, rng: np.random.Generator
) -> augmentation.Words:
    """Without some words; of the gaps around one, that with more line breaks stays."""
    rolls_W = rng.random(len(words))
    stays_W = rolls_W >= rate
    # Which one stays where all would go is the same at every rate.
    stays_W[rolls_W.argmax()] = True
    left: augmentation.Words = []
    for (word, gap), stays in zip(words, stays_W, strict=True):
        if stays:
            left.append((word, gap))
        elif left:
            known, before = left[-1]
            left[-1] = known, max(before, gap, key=lambda each: each.count("\n"))
    # The text ends as it did.
    left[-1] = left[-1][0], words[-1][1]
    return left


_NOISES: dict[str, Callable[..., augmentation.Words]] = {
    "typos": _typos,
    "swaps": _swaps,
    "drops": _drops,
}
NOISES = tuple(_NOISES)
"""The names of all noises."""
