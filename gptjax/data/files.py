"""Documents of text, JSON-lines and CSV files, and of folders of them.

A text file is one document, taken as it is: no newline is translated. A line of a
.jsonl file and a row of a .csv file are one document each.
"""

import csv
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from gptjax import errors
from gptjax.data import corpus

ENDINGS = {"text": (".txt",), "jsonl": (".jsonl", ".ndjson"), "csv": (".csv",)}


class _Line(NamedTuple):
    number: int
    text: str
    end: int
    """The offset in bytes of the next line."""


def find(path: pathlib.Path, kind: str) -> list[pathlib.Path]:
    """The files of a kind, by their endings: `path` itself, or those below a folder.

    Sorted; hidden files and folders are left out.
    """
    if not path.is_dir():
        return [path] if path.suffix.lower() in ENDINGS[kind] else []
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in ENDINGS[kind]
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def open_corpus(path: pathlib.Path, kind: str, column: str) -> corpus.Corpus:
    """The documents of a file, or of all files of a kind in and below a folder.

    Args:
      path: a file with any ending, or a folder.
      kind: a key of `ENDINGS`.
      column: the key or column that holds the text; not used for text files.

    Raises:
      UserError: an empty file, or a folder without files of this kind.
    """
    paths = find(path, kind) if path.is_dir() else [path]
    if not paths:
        raise errors.UserError(
            f"{path}: the folder holds no {' or '.join(ENDINGS[kind])} file"
        )
    stats = [p.stat() for p in paths]
    for file, stat in zip(paths, stats, strict=True):
        if not stat.st_size:
            raise errors.UserError(f"{file}: the file is empty")
    total = sum(stat.st_size for stat in stats)

    def read() -> Iterator[corpus.Document]:
        before = 0
        for file, stat in zip(paths, stats, strict=True):
            for document in _READERS[kind](file, column):
                yield document._replace(done=before + document.done)
            before += stat.st_size

    return corpus.Corpus(
        name=str(path),
        identity=[kind, "" if kind == "text" else column]
        + [
            [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
            for file, stat in zip(paths, stats, strict=True)
        ],
        size_bytes=total,
        total=total,
        read=read,
    )


def _read_text(path: pathlib.Path, column: str) -> Iterator[corpus.Document]:
    del column
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise corpus.not_utf8(path, error.start, data[error.start]) from error
    yield corpus.Document(text.removeprefix("\ufeff"), str(path), len(data))


def _read_jsonl(path: pathlib.Path, column: str) -> Iterator[corpus.Document]:
    for line in _lines(path):
        if not (stripped := line.text.rstrip()):
            continue
        place = f"{path}, line {line.number}"
        try:
            value = json.loads(stripped)
        except json.JSONDecodeError as error:
            raise errors.UserError(
                f"{place}, column {error.colno}: not JSON: {error.msg}"
            ) from error
        if not isinstance(value, dict):
            raise errors.UserError(
                f"{place}: holds {type(value).__name__}; a line is an object {{...}}"
            )
        if column not in value:
            raise corpus.missing_column(place, column, value)
        text = corpus.as_text(value[column], place, column)
        yield corpus.Document(text, place, line.end)


def _read_csv(path: pathlib.Path, column: str) -> Iterator[corpus.Document]:
    # The csv module refuses fields above 128 KiB unless told otherwise; a chapter
    # is longer.
    csv.field_size_limit(sys.maxsize)
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in _lines(path):
            end = line.end
            yield line.text

    rows = csv.reader(lines(), strict=True)
    index = header = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            place = f"{path}, line {rows.line_num}"
            raise errors.UserError(f"{place}: not CSV: {error}") from error
        if row is None:
            return
        place = f"{path}, line {rows.line_num}"
        if not row:
            continue
        if header is None:
            header = row
            if column not in header:
                raise corpus.missing_column(place, column, header)
            index = header.index(column)
            continue
        if len(row) != len(header):
            raise errors.UserError(
                f"{place}: {len(row)} columns where the header has {len(header)}"
            )
        yield corpus.Document(row[index], place, end)


def _lines(path: pathlib.Path) -> Iterator[_Line]:
    """The decoded lines of a file, ends of line kept."""
    end = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                offset = end + error.start
                raise corpus.not_utf8(path, offset, data[error.start]) from error
            end += len(data)
            yield _Line(number, text.removeprefix("\ufeff"), end)


_READERS = {"text": _read_text, "jsonl": _read_jsonl, "csv": _read_csv}
