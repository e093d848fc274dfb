"""What every source of texts gives: documents in order, each with its place."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gptjax import errors


class Document(NamedTuple):
    """One text."""

    text: str | Iterator[str]
    """Where it may be long, in parts, which must be read before the next document."""
    place: str
    """File and line or row, for messages."""
    done: int
    """How much of the corpus's `total` is read once this document is."""
    label: str | None = None
    """What stands in its label column, where that was asked for."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """An opened source: found and named, but not read yet."""

    name: str
    """What messages call it."""
    identity: list[Any]
    """JSON-able; differs whenever the texts may differ."""
    size_bytes: int
    """Roughly, on disk."""
    total: int
    """The last document's `done`."""
    read: Callable[[], Iterator[Document]]


def near_miss(wanted: str, present: Iterable[str]) -> str:
    """A hint that ends an error message: what else `wanted` may have meant."""
    present = [str(name) for name in present]
    near = difflib.get_close_matches(wanted, present, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}present: {', '.join(present) or 'none'}"


def missing_column(place: str, column: str, present: Iterable[str]) -> Exception:
    """The error for a column or key that a place does not have."""
    return errors.UserError(
        f"{place}: no column {column!r}; {near_miss(column, present)}"
    )


def as_text(value: Any, place: str, column: str) -> str:
    """`value` if it is text.

    Raises:
      UserError: naming the place, if it is anything else.
    """
    if isinstance(value, str):
        return value
    kind = "null" if value is None else type(value).__name__
    raise errors.UserError(f"{place}: column {column!r} holds no text but {kind}")


def listed(texts: Sequence[Any]) -> Sequence[Any]:
    """Several texts as they are.

    Raises:
      UserError: one text, whose letters would be taken for texts.
    """
    if isinstance(texts, str):
        raise errors.UserError(f"{texts[:40]!r} is one text; give a list of texts")
    return texts


def utf8_bytes(text: str, place: str) -> int:
    """The size of a text in bytes of UTF-8.

    Raises:
      UserError: naming the place, if it has none: half of a pair of \\u escapes, or
        bytes of an argument that were not UTF-8.
    """
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise errors.UserError(
            f"{place}: not Unicode: a lone surrogate \\u{ord(text[error.start]):04x}"
        ) from error


def as_label(value: Any, place: str, column: str) -> str:
    """`value` as a label, if it is text, a whole number or a truth value.

    Raises:
      UserError: naming the place, if it is anything else or empty.
    """
    if isinstance(value, str | int) and str(value).strip():
        return str(value)
    kind = "null" if value is None else type(value).__name__
    what = "an empty text" if isinstance(value, str) else kind
    raise errors.UserError(f"{place}: column {column!r} holds no label but {what}")


def not_utf8(path: Any, offset: int, byte: int) -> Exception:
    """The error for bytes that are not UTF-8."""
    return errors.UserError(
        f"{path}: not UTF-8: byte {offset} is 0x{byte:02x}; convert the file to UTF-8"
    )
