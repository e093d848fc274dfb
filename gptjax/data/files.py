"""Documents of text, JSON-lines and CSV files, and of folders of them.

A text file is one document, taken as it is: no newline is translated. A line of a
.jsonl file and a row of a .csv file are one document each.
"""

import codecs
import csv
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptjax import errors
from gptjax.data import corpus, storage

ENDINGS = {"text": (".txt",), "jsonl": (".jsonl", ".ndjson"), "csv": (".csv",)}

_PART_BYTES = 1 << 22


class _Line(NamedTuple):
    number: int
    text: str
    end: int
    """The offset in bytes of the next line."""


def find(path: storage.Path, kind: str) -> list[storage.Path]:
    """The files of a kind, by their endings: `path` itself, or those below a folder.

    Sorted; hidden files and folders are left out.
    """
    if not path.is_dir():
        return [path] if path.suffix.lower() in ENDINGS[kind] else []
    found = {file.relative_to(path).parts: file for file in path.rglob("*")}
    return [
        found[parts]
        for parts in sorted(found)
        if found[parts].suffix.lower() in ENDINGS[kind]
        and not any(part.startswith(".") for part in parts)
    ]


def open_corpus(
    path: storage.Path, kind: str, column: str, label_column: str | None = None
) -> corpus.Corpus:
    """The documents of a file, or of all files of a kind in and below a folder.

    Args:
      path: a file with any ending, or a folder.
      kind: a key of `ENDINGS`.
      column: the key or column that holds the text; not used for text files.
      label_column: the one that holds the label; None: labels are not wanted.

    Raises:
      UserError: an empty file, a folder without files of this kind, labels in a text
        file.
    """
    if kind == "text" and label_column is not None:
        raise errors.UserError(
            f"{path}: a text file has no labels; they stand beside the texts in a "
            "JSONL or CSV file or a data set"
        )
    paths = find(path, kind) if path.is_dir() else [path]
    if not paths:
        raise errors.UserError(
            f"{path}: the folder holds no {' or '.join(ENDINGS[kind])} file"
        )
    identities, sizes = zip(*map(storage.stat, paths), strict=True)
    for file, size in zip(paths, sizes, strict=True):
        if not size:
            raise errors.UserError(f"{file}: the file is empty")
    total = sum(sizes)

    def read() -> Iterator[corpus.Document]:
        before = 0
        for file, size in zip(paths, sizes, strict=True):
            for document in _READERS[kind](file, column, label_column):
                yield document._replace(done=before + document.done)
            before += size

    return corpus.Corpus(
        name=str(path),
        identity=[kind, "" if kind == "text" else column, *identities],
        size_bytes=total,
        total=total,
        read=read,
    )


def _read_text(
    path: storage.Path, column: str, label_column: None
) -> Iterator[corpus.Document]:
    del column, label_column
    yield corpus.Document(_parts(path), str(path), storage.stat(path)[1])


def _parts(path: storage.Path) -> Iterator[str]:
    """A file's text, some megabytes at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    begin, is_first = 0, True
    with storage.reading(path) as file:
        while True:
            data = file.read(_PART_BYTES)
            # Those of a character that the end of the last part cut.
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                offset = begin - held + error.start
                raise corpus.not_utf8(
                    path, offset, error.object[error.start]
                ) from error
            if text:
                yield text.removeprefix("\ufeff") if is_first else text
                is_first = False
            if not data:
                return
            begin += len(data)


def _read_jsonl(
    path: storage.Path, column: str, label_column: str | None
) -> Iterator[corpus.Document]:
    for value, place, end in read_objects(path):
        label = None
        for wanted in (column, label_column):
            if wanted is not None and wanted not in value:
                raise corpus.missing_column(place, wanted, value)
        if label_column is not None:
            label = corpus.as_label(value[label_column], place, label_column)
        text = corpus.as_text(value[column], place, column)
        yield corpus.Document(text, place, end, label)


def read_objects(path: storage.Path) -> Iterator[tuple[dict[str, Any], str, int]]:
    """The objects of a .jsonl file, each with its place and where its line ends.

    Raises:
      UserError: naming the line that is no JSON object.
    """
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
        yield value, place, line.end


def _read_csv(
    path: storage.Path, column: str, label_column: str | None
) -> Iterator[corpus.Document]:
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
    header = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            place, reason = f"{path}, line {rows.line_num}", str(error)
            if "new-line" in reason:
                reason = "lines end in CR alone; they end in LF or CR LF"
            raise errors.UserError(f"{place}: not CSV: {reason}") from error
        if row is None:
            return
        place = f"{path}, line {rows.line_num}"
        if not row:
            continue
        if header is None:
            header = row
            for name in header:
                if header.count(name) > 1 and name in (column, label_column):
                    raise errors.UserError(f"{place}: column {name!r} stands twice")
            for wanted in (column, label_column):
                if wanted is not None and wanted not in header:
                    raise corpus.missing_column(place, wanted, header)
            continue
        if len(row) != len(header):
            raise errors.UserError(
                f"{place}: {len(row)} columns where the header has {len(header)}"
            )
        label = None
        if label_column is not None:
            label = row[header.index(label_column)]
            label = corpus.as_label(label, place, label_column)
        yield corpus.Document(row[header.index(column)], place, end, label)


def _lines(path: storage.Path) -> Iterator[_Line]:
    """The decoded lines of a file, ends of line kept."""
    end = 0
    with storage.reading(path) as file:
        for number, data in enumerate(file, 1):
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                offset = end + error.start
                raise corpus.not_utf8(path, offset, data[error.start]) from error
            end += len(data)
            yield _Line(number, text.removeprefix("\ufeff"), end)


_READERS = {"text": _read_text, "jsonl": _read_jsonl, "csv": _read_csv}
