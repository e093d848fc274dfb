"""Texts whose words have labels: read, checked, tokenized."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gptjax import config, errors
from gptjax.data import corpus, examples, files, sources, storage
from gptjax.data.tokenizer import Tokenizer
from gptjax.data.tokens import Tokens


class _Text(NamedTuple):
    words: list[str]
    tags: list[str]
    place: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagged(examples.Examples):
    """Tokenized texts, each word of one class; the texts themselves have none.

    A word's class stands at its last token, the first that has seen all of it.
    """

    tags: np.ndarray
    """(tokens,) int32, of all texts of the source: numbers of labels, -100 where no
    word ends."""

    @property
    def strata(self) -> tuple[str, ...]:
        """One: words of all labels stand in a text."""
        return ("any",)

    @property
    def counts(self) -> np.ndarray:
        """How many words there are of each class, int64."""
        return np.bincount(self.known(None), minlength=len(self.labels))

    @property
    def checksum(self) -> int:
        """Of texts and tags, to tell that a run resumes on the same ones."""
        return examples.crc(self.tags, super().checksum)

    def classes_of(self, numbers: np.ndarray, length: int) -> np.ndarray:
        """What batches of so many tokens a row predict, int32 (rows, length)."""
        found = np.full((len(numbers), length), examples.UNKNOWN, np.int32)
        for row, number in zip(found, numbers, strict=True):
            if number >= 0:
                tags = self._tags(number, length)
                row[: len(tags)] = tags
        return found

    def known(self, longest: int | None) -> np.ndarray:
        """The classes of all words that end within `longest` tokens, text by text."""
        tags = [self._tags(number, longest) for number in range(len(self))]
        joined = np.concatenate([*tags, np.zeros(0, np.int32)])
        return joined[joined != examples.UNKNOWN]

    def words_of(self, number: int, longest: int) -> int:
        """How many words of a text end within `longest` tokens."""
        return int((self._tags(number, longest) != examples.UNKNOWN).sum())

    def _tags(self, number: int, longest: int | None) -> np.ndarray:
        start = self.tokens.document_starts[self.rows[number]]
        return self.tags[start : start + self.lengths[number]][:longest]


def read_tagged(
    source: config.Source, tokenizer: Tokenizer, *, labels: Sequence[str] | None
) -> Tagged:
    """The tagged texts of JSONL or CSV files.

    The text column holds a list of words, or words between spaces; the label column as
    many tags.

    Args:
      labels: those that there may be; None: whichever there are, as `read_examples`
        orders them.

    Raises:
      UserError: one line naming file and place: no words, more or fewer tags than
        words, an unknown tag.
    """
    texts = []
    for text in _read(source):
        unknown = [tag for tag in text.tags if labels is not None and tag not in labels]
        if unknown:
            raise errors.UserError(
                f"{text.place}: label {unknown[0]!r} is none of those that the model "
                f"has: {', '.join(labels or ())}"
            )
        texts.append(text)
    if not texts:
        raise errors.UserError(f"{source.path}: holds no text")
    labels = examples.learnt(
        itertools.chain.from_iterable(text.tags for text in texts), labels, source.path
    )
    numbers = {label: number for number, label in enumerate(labels)}
    return _tokenize(
        [text.words for text in texts],
        [[numbers[tag] for tag in text.tags] for text in texts],
        [text.place for text in texts],
        tokenizer,
        labels=labels,
        name=source.name,
    )


def tokenize_words(
    texts: Sequence[Sequence[str]], tokenizer: Tokenizer, *, labels: Sequence[str]
) -> Tagged:
    """Words at hand, tokenized, all of the first class: where they end is what counts.

    Raises:
      UserError: a text without words, a word with space in it.
    """
    places = [f"text {number}" for number in range(1, len(texts) + 1)]
    checked = [
        _words(list(words), place) for words, place in zip(texts, places, strict=True)
    ]
    zeros = [[0] * len(words) for words in checked]
    return _tokenize(checked, zeros, places, tokenizer, labels=labels, name="texts")


def _read(source: config.Source) -> Iterator[_Text]:
    path = storage.path(source.path)
    if not path.exists():
        raise sources.not_there(path)
    kinds = [kind for kind in ("jsonl", "csv") if files.find(path, kind)]
    kind = source.format or (kinds[0] if len(kinds) == 1 else None)
    if kind == "jsonl":
        for value, place, _ in sources.read_objects(path):
            for wanted in (source.column, source.label_column):
                if wanted not in value:
                    raise corpus.missing_column(place, wanted, value)
            yield _text(value[source.column], value[source.label_column], place, source)
    elif kind == "csv":
        for document in sources.open_corpus(source, labelled=True).read():
            yield _text(document.text, document.label, document.place, source)
    else:
        raise errors.UserError(
            f"{path}: tagged words stand in files of one kind, .jsonl or .csv, a text "
            "a line"
        )


def _text(words: Any, tags: Any, place: str, source: config.Source) -> _Text:
    words = _words(words, f"{place}: column {source.column!r}")
    tags = _words(tags, f"{place}: column {source.label_column!r}")
    if len(words) != len(tags):
        raise errors.UserError(
            f"{place}: {len(words)} words and {len(tags)} tags; each word has one"
        )
    return _Text(words, tags, place)


def _words(value: Any, place: str) -> list[str]:
    """The words of a list, or between the spaces of a text; numbers are words, too."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        kind = "null" if value is None else type(value).__name__
        raise errors.UserError(f"{place}: holds no words but {kind}")
    words = [str(word) if isinstance(word, int) else word for word in value]
    for word in words:
        if not isinstance(word, str) or word.split() != [word]:
            raise errors.UserError(f"{place}: {word!r} is no word: text without space")
        corpus.utf8_bytes(word, place)
    if not words:
        raise errors.UserError(f"{place}: an empty text")
    return words


def _tokenize(
    words: list[list[str]],
    tags: list[list[int]],
    places: list[str],
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str],
    name: str,
) -> Tagged:
    """Words with one space between them, as tokens; the tags at their last ones."""
    texts = [" ".join(each) for each in words]
    found = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    marks = [
        _marks(encoded.offsets, own, numbers, place)
        for encoded, own, numbers, place in zip(found, words, tags, places, strict=True)
    ]
    ids = [np.array(each.ids, np.int32) for each in found]
    starts = np.cumsum([0, *map(len, ids)])[: len(ids)]
    joined = np.concatenate([*ids, np.zeros(0, np.int32)])
    tokens = Tokens(
        ids=joined,
        document_starts=starts.astype(np.int64),
        bytes=sum(len(text.encode()) for text in texts),
        name=name,
        checksum=examples.crc(joined, 0),
    )
    return Tagged(
        tokens=tokens,
        rows=np.arange(len(ids)),
        classes=np.zeros(len(ids), np.int32),
        labels=tuple(labels),
        name=name,
        tags=np.concatenate([*marks, np.zeros(0, np.int32)]),
    )


def _marks(
    offsets: list[tuple[int, int]], words: list[str], tags: list[int], place: str
) -> np.ndarray:
    """The tags at the tokens where words end, -100 at the others."""
    marks = np.full(len(offsets), examples.UNKNOWN, np.int32)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    # The last of several tokens that share a character's bytes.
    last = {end: token for token, (_, end) in enumerate(offsets)}
    for word, end, tag in zip(words, ends.tolist(), tags, strict=True):
        if end not in last:
            raise errors.UserError(
                f"{place}: the tokenizer ends no token where {word!r} ends"
            )
        marks[last[end]] = tag
    return marks
