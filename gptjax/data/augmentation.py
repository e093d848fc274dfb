"""Texts changed a little, so that a classifier sees more of them than there are.

Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text
Classification Tasks", 2019, arXiv:1901.11196: synonyms, insertion, swap and deletion.
Words that move a few places: Lample et al., "Unsupervised Machine Translation Using
Monolingual Corpora Only", 2018, arXiv:1711.00043, section 2.3.

A word is what stands between spaces, with its punctuation; in Chinese and Japanese,
which have no spaces, the longest entry of the synonyms that begins there, or else a
character.
"""

import json
import pathlib
import re
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np

from gptjax import config, errors

Synonyms = Callable[[str], Sequence[str]]
Words = list[tuple[str, str]]
"""Each with what stands between it and the next."""

_MOVES = 3
"""How many places a word moves at most, when order is shuffled."""
_SHORT_WORDS = 12
"""What is shorter is a short text."""
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


class Augmentation:
    """Changes texts as a config says, each by a random generator of its own."""

    def __init__(self, settings: config.Augmentation):
        """Reads the synonyms.

        Raises:
          UserError: a file that is none of synonyms, or WordNet without its data.
        """
        self._settings = settings
        self._known: Mapping[str, Sequence[str]] = {}
        self._longest = 1
        self._synonyms: Synonyms = lambda word: ()
        if settings.synonyms == "wordnet":
            self._synonyms = _wordnet()
        elif settings.synonyms is not None:
            self._known = read_synonyms(pathlib.Path(settings.synonyms))
            self._longest = max(map(len, self._known), default=1)
            self._synonyms = lambda word: self._known.get(word.lower(), ())

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """The text, each operation applied with its probability; never empty."""
        changed = text
        for name, chance in self._settings.operations.items():
            if rng.random() < chance:
                changed = self._apply(name, changed, rng)
        return changed if changed.strip() else text

    def _apply(self, name: str, text: str, rng: np.random.Generator) -> str:
        if name == "sentences":
            return _swap_sentences(text, rng)
        words = split(text, self._known, longest=self._longest)
        if name == "duplication":
            gap = "" if _is_ideographic(text) else " "
            return text + gap + text if len(words) < _SHORT_WORDS else text
        if name == "shuffle":
            return join(_shuffle(words, rng))
        # As many as EDA changes: one at least.
        count = max(1, round(self._settings.strength * len(words)))
        if name == "deletion":
            return join(_delete(words, self._settings.strength, rng))
        if name == "swap":
            return join(_swap(words, count, rng))
        change = self._replace if name == "synonyms" else self._insert
        return join(change(words, count, rng))

    def _replace(self, words: Words, count: int, rng: np.random.Generator) -> Words:
        """With up to `count` words replaced by one of their synonyms."""
        words, left = list(words), count
        for place in rng.permutation(len(words)):
            found = self._found(words[place][0])
            if found and left:
                words[place] = (found[rng.integers(len(found))], words[place][1])
                left -= 1
        return words

    def _insert(self, words: Words, count: int, rng: np.random.Generator) -> Words:
        """With `count` synonyms of words, each before another word."""
        found = [own for own in (self._found(word) for word, _ in words) if own]
        words = list(words)
        for _ in range(count if found else 0):
            among = found[rng.integers(len(found))]
            word = among[rng.integers(len(among))].strip(",.;:!?")
            gap = "" if _is_ideographic(word) else " "
            words.insert(int(rng.integers(len(words))), (word, gap))
        return words

    def _found(self, word: str) -> list[str]:
        """A word's synonyms, with its punctuation and its capital letter."""
        match = re.fullmatch(r"(\W*)(.*?)(\W*)", word, re.DOTALL)
        assert match is not None
        before, core, after = match.groups()
        found = [s for s in self._synonyms(core) if s.lower() != core.lower()]
        if core[:1].isupper():
            found = [s[:1].upper() + s[1:] for s in found]
        return [before + s + after for s in found]


def _swap(words: Words, count: int, rng: np.random.Generator) -> Words:
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        one, other = rng.choice(len(words), 2, replace=False)
        (first, gap), (second, other_gap) = words[one], words[other]
        words[one], words[other] = (second, gap), (first, other_gap)
    return words


def _delete(words: Words, chance: float, rng: np.random.Generator) -> Words:
    """Without each word by chance; one is left."""
    left = [word for word in words if rng.random() >= chance]
    return left or [words[rng.integers(len(words))]] if words else words


def _shuffle(words: Words, rng: np.random.Generator) -> Words:
    """With words moved a few places, the gaps left where they are."""
    order = np.argsort(np.arange(len(words)) + rng.uniform(0, _MOVES + 1, len(words)))
    return [(words[n][0], gap) for n, (_, gap) in zip(order, words, strict=True)]


def _swap_sentences(text: str, rng: np.random.Generator) -> str:
    """With two sentences in each other's place."""
    parts = [
        p for p in re.split(r"(?<=[.!?])(\s+)|(?<=[\u3002\uff01\uff1f])", text) if p
    ]
    sentences = [n for n, part in enumerate(parts) if part.strip()]
    if len(sentences) < 2:
        return text
    one, other = rng.choice(sentences, 2, replace=False)
    parts[one], parts[other] = parts[other], parts[one]
    return "".join(parts)


def split(text: str, known: Container[str] = (), *, longest: int = 1) -> Words:
    """The words of a text, and the gaps after them; joined, they are the text.

    Args:
      known: words that may have several ideographs.
      longest: how many, at most.
    """
    words: Words = []
    for run in re.finditer(rf"[{_IDEOGRAPH}]+|[^\s{_IDEOGRAPH}]+|\s+", text):
        piece = run[0]
        if piece.isspace():
            word, gap = words.pop() if words else ("", "")
            words.append((word, gap + piece))
        elif _is_ideographic(piece[0]):
            while piece:
                size = next((n for n in range(longest, 1, -1) if piece[:n] in known), 1)
                words.append((piece[:size], ""))
                piece = piece[size:]
        else:
            words.append((piece, ""))
    return words


def join(words: Words) -> str:
    return "".join(word + gap for word, gap in words)


def _is_ideographic(text: str) -> bool:
    return re.search(f"[{_IDEOGRAPH}]", text) is not None


def read_synonyms(path: pathlib.Path) -> dict[str, list[str]]:
    """Words in lower case with their synonyms.

    A JSON object of words and lists of their synonyms; or text, a line for each set of
    words that stand for each other, with commas or tabs between them.

    Raises:
      UserError: no such file, or another format, naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise errors.UserError(f"{path}: cannot be read: {reason}") from error
    if path.suffix == ".json":
        try:
            values = json.loads(text)
            if not all(isinstance(own, list) for own in values.values()):
                raise TypeError
            return {word.lower(): [str(s) for s in own] for word, own in values.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise errors.UserError(
                f"{path}: not a JSON object of words and lists of synonyms"
            ) from error
    known: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        group = [
            word.strip() for word in re.split(r"[,\t\uff0c]", line) if word.strip()
        ]
        if len(group) < 2:
            raise errors.UserError(
                f"{path}, line {number}: {line.strip()!r} is one word; a line is a set "
                "of words with commas or tabs between them"
            )
        for word in group:
            others = known.setdefault(word.lower(), [])
            others += [s for s in group if s != word and s not in others]
    return known


def _wordnet() -> Synonyms:
    """The English WordNet's, through the library `wn`.

    Raises:
      UserError: the library or its data is missing, and how to get it.
    """
    try:
        import wn
    except ImportError as error:
        raise errors.UserError(
            'synonyms: wordnet needs: pip install "gptjax[wordnet]"'
        ) from error
    # Batches are made in a thread of their own; one at a time asks.
    wn.config.allow_multithreading = True
    try:
        english = wn.Wordnet(lang="en")
    except wn.Error as error:
        raise errors.UserError(
            "synonyms: WordNet's data is not there; get it with: python -m wn download "
            "oewn:2024"
        ) from error

    def find(word: str) -> list[str]:
        lemmas = {
            s for synset in english.synsets(word.lower()) for s in synset.lemmas()
        }
        return sorted(s for s in lemmas if s.lower() != word.lower())

    return find
