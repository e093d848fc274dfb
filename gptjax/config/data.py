"""Where texts come from, how they change, how they become sequences."""

import pathlib
import re
from typing import Annotated, Any, Literal

import pydantic

from gptjax.config.base import Fraction, NonNegative, Positive, Section


def check_style(style: Any) -> str:
    """A style's name, if it is words: its code is one line of text.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(style, str) or not re.fullmatch(r"[\w-]+( [\w-]+)*", style):
        raise ValueError(
            f"style {style!r}: a style is called by words, e.g. shakespeare"
        )
    return style


class Source(Section):
    """Where texts come from; a plain string is its `path`."""

    path: str
    """A file, a folder of files of one kind, a saved Hugging Face data set, the folder
    of a built TFDS version, or with `format: tfds` the name of a TFDS data set. All but
    TFDS's may lie in an object store: `gs://bucket/a.txt`."""
    format: Literal["text", "jsonl", "csv", "hf", "tfds"] | None = None
    """None: by the name's ending (.txt, .jsonl, .csv), or what a folder holds."""
    column: str = "text"
    """The column or key that holds the text; not used for plain text files."""
    label_column: str = "label"
    """The column or key that holds the label, where texts are classified."""
    style: str | None = None
    """With `task.kind: instructions`: the style of all records that name none."""
    split: str | None = None
    """Which split of a Hugging Face or TFDS data set, e.g. `train[:80%]`."""
    data_dir: str | None = None
    """Where a TFDS data set was built; None: TFDS's usual place, and it downloads and
    builds what is not there."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_a_path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @pydantic.field_validator("style")
    @classmethod
    def _is_words(cls, value: str | None) -> str | None:
        return None if value is None else check_style(value)

    @classmethod
    def of(cls, text: "str | pathlib.Path | Source") -> "Source":
        """A file's path as a source; a source as it is."""
        return text if isinstance(text, Source) else cls(path=str(text))

    @property
    def name(self) -> str:
        """What the texts are called in reports: the file, and the split if any."""
        name = pathlib.Path(self.path).name
        return name if self.split is None else f"{name}[{self.split}]"


Operation = Literal[
    "synonyms", "insertion", "swap", "deletion", "shuffle", "sentences", "duplication"
]


class Augmentation(Section):
    """Changes that training texts undergo, anew each time that they are read."""

    operations: dict[Operation, Fraction]
    """With what probability each is applied, in this order: words replaced by
    `synonyms`; synonyms inserted; words swapped; words deleted; words moved a few
    places (`shuffle`); two `sentences` swapped; a short text said twice
    (`duplication`)."""
    strength: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.1
    """What fraction of words the first four change; one word at least."""
    synonyms: str | None = None
    """A file of them, or `wordnet` (English; extra `wordnet`)."""

    @pydantic.model_validator(mode="after")
    def _has_synonyms(self):
        for name in ("synonyms", "insertion"):
            if self.operations.get(name) and self.synonyms is None:
                raise ValueError(
                    f"operations.{name}: needs synonyms: wordnet or a file"
                )
        if not any(self.operations.values()):
            raise ValueError("operations: none is ever applied")
        if self.synonyms and not (
            self.operations.get("synonyms") or self.operations.get("insertion")
        ):
            raise ValueError("synonyms: neither synonyms nor insertion is applied")
        return self


class Data(Section):
    """Texts, and how they become sequences."""

    train: Source | None = None
    valid: Source | None = None
    valid_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    """Where texts are classified, or instructions learnt, and `valid` is missing: how
    many of the training texts validate instead, of every label the same fraction."""
    augmentation: Augmentation | None = None
    """Where texts are classified; validation texts stay as they are."""
    limit: Positive | None = None
    """Where texts are classified, or instructions learnt: train on so many of them,
    drawn by the run's seed."""
    sequence_tokens: Positive = 1024
    """T: the length of a training sequence; of texts that are classified, and of
    instructions with their answers, the most tokens that are read."""
    respect_documents: bool = False
    """Tokens see only their own document; positions start anew with each."""
    append_eos: bool = False
    """End every document with the tokenizer's end-of-text token."""
    cache_dir: str | None = None
    """Where tokenized texts are kept, e.g. `gs://bucket/tokens`, of which each host
    then fetches what it reads; None: `~/.cache/gptjax/tokens`."""
    workers: NonNegative = 0
    """Processes that tokenize a large source; 0: one for each core."""
