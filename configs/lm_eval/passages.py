"""The packaged texts as tasks of the lm-evaluation-harness, without any download."""

import random

import datasets

from gptjax import assets

CONTEXT, CONTINUATION, CHOICES = 40, 12, 4
"""Words before, words of each choice, and choices."""


def whole(text: str, **unused) -> dict[str, datasets.Dataset]:
    """A text as one document."""
    del unused
    return {"test": datasets.Dataset.from_list([{"text": _read(text)}])}


def continuations(text: str, count: int, **unused) -> dict[str, datasets.Dataset]:
    """Passages of a text, each with its continuation among those of others.

    Passages do not overlap; where they lie, and which choice is the true one, is drawn
    with a fixed seed.
    """
    del unused
    words, draw = _read(text).split(), random.Random(0)
    length = CONTEXT + CONTINUATION
    starts = draw.sample(range(0, len(words) - length, length), count)
    ends = [" ".join(words[at + CONTEXT : at + length]) for at in starts]
    documents = []
    for number, at in enumerate(starts):
        others = [end for place, end in enumerate(ends) if place != number]
        choices = [ends[number], *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        documents.append(
            {
                "passage": " ".join(words[at : at + CONTEXT]),
                "choices": choices,
                "answer": choices.index(ends[number]),
            }
        )
    return {"test": datasets.Dataset.from_list(documents)}


def _read(text: str) -> str:
    return assets.text(text).read_text(encoding="utf-8")
