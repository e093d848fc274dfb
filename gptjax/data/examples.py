"""Labelled texts: read, checked, divided."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from gptjax import config, errors
from gptjax.data import cache, corpus, sources, tokenization
from gptjax.data.tokenizer import Tokenizer
from gptjax.data.tokens import Tokens

UNKNOWN = -100
"""The class of a row that fills a batch up."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Tokenized texts, each of one class."""

    tokens: Tokens
    """Of all texts of the source, a document each."""
    rows: np.ndarray
    """(N,) int64: which documents these are; rising."""
    classes: np.ndarray
    """(N,) int32: numbers of labels."""
    labels: tuple[str, ...]
    """What the numbers stand for."""
    name: str = "the texts"
    """What reports call them."""
    texts: tuple[str, ...] = ()
    """Of all documents of the source, where they are to be changed."""
    encode: Callable[[str], np.ndarray] | None = None
    """What makes token ids of a changed text."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: the tokens of each text."""
        ends = np.append(self.tokens.document_starts[1:], len(self.tokens))
        return (ends - self.tokens.document_starts)[self.rows]

    @property
    def counts(self) -> np.ndarray:
        """How many texts there are of each class, int64."""
        return np.bincount(self.classes, minlength=len(self.labels))

    @property
    def strata(self) -> tuple[str, ...]:
        """What the numbers in `classes` stand for, where texts are divided by them."""
        return self.labels

    @property
    def checksum(self) -> int:
        """Of texts and classes, to tell that a run resumes on the same ones."""
        return crc(self.classes, crc(self.rows, self.tokens.checksum))

    def classes_of(self, numbers: np.ndarray, length: int) -> np.ndarray:
        """What the rows of a batch predict, int32 (rows,); -100 below number 0."""
        del length
        classes = np.where(numbers >= 0, self.classes[numbers], UNKNOWN)
        return classes.astype(np.int32)

    def known(self, longest: int | None) -> np.ndarray:
        """The classes of all texts, whose last token counts wherever they are cut."""
        del longest
        return self.classes

    def ids(self, number: int) -> np.ndarray:
        """The token ids of a text, counted from 0 among these."""
        start = self.tokens.document_starts[self.rows[number]]
        return self.tokens.ids[start : start + self.lengths[number]]

    @property
    def joined(self) -> Tokens:
        """The tokens of these texts alone, one after another."""
        ids = [self.ids(number) for number in range(len(self))]
        starts = np.cumsum([0, *map(len, ids[:-1])])
        return Tokens(np.concatenate(ids), starts, bytes=0, name=self.name)

    def changed(
        self, change: Callable[[str, np.random.Generator], str]
    ) -> Callable[[int, np.random.Generator], np.ndarray]:
        """A function (number, generator) that gives the token ids of a changed text."""
        assert self.encode is not None

        def ids(number, rng):
            return self.encode(change(self.texts[self.rows[number]], rng))

        return ids

    def take(self, numbers: np.ndarray) -> "Examples":
        """Those of the given numbers, in their order of the source."""
        numbers = np.sort(numbers)
        return dataclasses.replace(
            self, rows=self.rows[numbers], classes=self.classes[numbers]
        )


def crc(array: np.ndarray, known: int) -> int:
    """A checksum of an array, and of what is known already."""
    return zlib.crc32(array.tobytes(), known)


def read_labelled(source: config.Source) -> Iterator[corpus.Document]:
    """The texts of a source with their labels.

    Raises:
      UserError: one line naming file and place: no label, an empty text; no text.
    """
    document = None
    for document in sources.open_corpus(source, labelled=True).read():
        text = document.text
        if not (text if isinstance(text, str) else "".join(text)).strip():
            raise errors.UserError(f"{document.place}: an empty text has no class")
        yield document
    if document is None:
        raise errors.UserError(f"{source.path}: holds no text")


def read_examples(
    source: config.Source,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str] | None,
    append_eos: bool,
    workers: int,
    cache_dir: str | None,
    vocab_size: int | None,
    progress: bool,
    keep_texts: bool = False,
) -> Examples:
    """The labelled texts of a source; tokens as `tokenize` gives them.

    Args:
      labels: those that there may be; None: whichever there are, whole numbers by
        their size, then words by the alphabet.
      keep_texts: whether the result is to have them.

    Raises:
      UserError: one line naming file and place: no label, another one, an empty text.
    """
    found, texts = [], []
    for document in read_labelled(source):
        if labels is not None and document.label not in labels:
            raise errors.UserError(
                f"{document.place}: label {document.label!r} is none of those that the "
                f"model has: {', '.join(labels)}"
            )
        found.append(document.label)
        if keep_texts:
            texts.append(document.text)
    labels = learnt(found, labels, source.path)
    tokens = tokenization.tokenize(
        source,
        tokenizer,
        append_eos=append_eos,
        workers=workers,
        cache_dir=cache_dir,
        vocab_size=vocab_size,
        progress=progress,
    )
    if len(tokens.document_starts) != len(found):
        raise errors.UserError(
            f"{source.path}: {len(found) - len(tokens.document_starts)} of its texts "
            "have no tokens, so that they cannot be classified"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    return Examples(
        tokens=tokens,
        rows=np.arange(len(found)),
        classes=np.array([numbers[label] for label in found], np.int32),
        labels=tuple(labels),
        name=source.name,
        texts=tuple(texts),
        encode=_encoder(tokenizer, append_eos, cache_dir) if keep_texts else None,
    )


def _encoder(
    tokenizer: Tokenizer, append_eos: bool, cache_dir: str | None
) -> Callable[[str], np.ndarray]:
    facts = tokenizer.facts(cache.cache_folder(cache_dir))
    end = [facts.eos_id] if append_eos else []

    def encode(text):
        # As `tokenize` does it: without what the tokenizer would put around a text.
        ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        return np.array([*ids, *end], np.int32)

    return encode


def tokenize_texts(
    texts: Sequence[str], tokenizer: Tokenizer, *, labels: Sequence[str]
) -> Examples:
    """Texts at hand, tokenized, of no class that is known.

    Raises:
      UserError: an empty text.
    """
    for number, text in enumerate(texts):
        if not text.strip():
            raise errors.UserError(f"text {number + 1}: an empty text has no class")
    tokens = tokenization.tokenize_here(texts, tokenizer)
    classes = np.full(len(texts), UNKNOWN, np.int32)
    return Examples(tokens, np.arange(len(texts)), classes, tuple(labels))


def learnt(
    found: Iterable[str], labels: Sequence[str] | None, path: str
) -> Sequence[str]:
    """`labels`, or if there are none the ones that were found, in their order.

    Raises:
      UserError: only one was found.
    """
    if labels is not None:
        return labels
    labels = sorted(set(found), key=_order)
    if len(labels) < 2:
        raise errors.UserError(
            f"{path}: all have the label {labels[0]!r}; there is nothing to tell apart"
        )
    return labels


def _order(label: str) -> tuple[bool, int, str]:
    """Whole numbers by their size, before words."""
    is_number = re.fullmatch(r"-?[0-9]+", label) is not None
    return not is_number, int(label) if is_number else 0, label


def divide(
    examples: Examples, fraction: float, *, seed: int
) -> tuple[Examples, Examples]:
    """Examples in two, the second with a fraction of them, of every class the same.

    Raises:
      UserError: a class with fewer than two texts.
    """
    rng = np.random.default_rng([seed, 0])
    second = []
    for number, label in enumerate(examples.strata):
        places = np.flatnonzero(examples.classes == number)
        if len(places) < 2:
            raise errors.UserError(
                f"{examples.name}: {len(places)} text of label {label!r}; to train and "
                "to validate takes two; give data.valid"
            )
        count = min(max(1, round(fraction * len(places))), len(places) - 1)
        second.append(rng.permutation(places)[:count])
    chosen = np.concatenate(second)
    rest = np.setdiff1d(np.arange(len(examples)), chosen)
    part = examples.take(chosen)
    return examples.take(rest), dataclasses.replace(
        part, name=f"{examples.name}, {len(part) / len(examples):.0%} of it"
    )


def limit(examples: Examples, count: int, *, seed: int) -> Examples:
    """So many examples drawn at random, each class's share as it was, or all of them.

    A larger count holds those of a smaller one, by the same seed.

    Raises:
      UserError: fewer than there are classes.
    """
    if count >= len(examples):
        return examples
    if count < len(examples.strata):
        raise errors.UserError(
            f"data.limit: {count} texts cannot show {len(examples.strata)} labels"
        )
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(examples))
    # The nth of its class comes when n of so many are due: shares hold at any count.
    ranks = np.empty(len(examples))
    for number in range(len(examples.strata)):
        places = order[examples.classes[order] == number]
        total = len(places)
        ranks[places] = (np.arange(len(places)) + 0.5) / max(total, 1)
    return examples.take(order[np.argsort(ranks[order], kind="stable")][:count])
