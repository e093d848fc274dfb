"""Documents of a Hugging Face `datasets` folder, as `save_to_disk` wrote it.

Such a folder is Arrow files and a little JSON: pyarrow alone reads it, mapped into
memory, without the `datasets` library.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from gptjax import errors
from gptjax.data import corpus, storage

MARKS = ("dataset_dict.json", "state.json")
"""Files that tell such a folder from others: many splits, or one data set."""

_SPLIT = re.compile(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def open_corpus(
    folder: storage.Path,
    column: str,
    split: str | None,
    label_column: str | None = None,
) -> corpus.Corpus:
    """The rows of one split, in order.

    Args:
      folder: a saved `Dataset` or `DatasetDict`.
      column: the string column that holds the text.
      split: `train`, `train[:80%]`, `train[100:200]`; None where there is only one.
      label_column: the one that holds the label, as text, a number, or one of
        datasets' class labels; None: labels are not wanted.

    Raises:
      UserError: pyarrow is missing, an unknown split or column, a damaged folder.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise errors.UserError(
            f'{folder}: a Hugging Face data set needs: pip install "gptjax[hf]"'
        ) from error
    part, begin, end = _find_split(folder, split)
    state = _read_json(part / "state.json")
    if state.get("_indices_data_files"):
        raise errors.UserError(
            f"{part}: saved with an index by an old version of datasets; load it with "
            "datasets and save it again"
        )
    files = [part / entry["filename"] for entry in state["_data_files"]]
    try:
        identities, sizes = zip(*map(storage.stat, files), strict=True)
        rows = sum(batch.num_rows for file in files for batch in _batches(file))
        with _opened(files[0]) as stream:
            schema = stream.schema
    except (OSError, ValueError, pyarrow.ArrowInvalid) as error:
        raise errors.UserError(f"{part}: a damaged data set: {error}") from error
    for needed in (column, label_column):
        if needed is not None and needed not in schema.names:
            raise corpus.missing_column(str(part), needed, schema.names)
    names = _class_names(schema, label_column)
    kind = schema.field(column).type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise errors.UserError(f"{part}: column {column!r} holds no text but {kind}")
    wanted = range(rows)[slice(_bound(begin, rows), _bound(end, rows))]

    def read() -> Iterator[corpus.Document]:
        row = 0
        for file in files:
            for batch in _batches(file):
                inside = range(row, row + batch.num_rows)
                first = max(wanted.start, inside.start)
                last = min(wanted.stop, inside.stop)
                inside_batch = batch.slice(first - row, max(0, last - first))
                values = inside_batch.column(column)
                for offset, value in enumerate(values):
                    at = first + offset
                    place = f"{part}, row {at}"
                    text = corpus.as_text(value.as_py(), place, column)
                    label = None
                    if label_column is not None:
                        label = inside_batch.column(label_column)[offset].as_py()
                        if names is not None and label is not None:
                            # -1 stands for none, e.g. in a test split.
                            is_known = 0 <= label < len(names)
                            label = names[label] if is_known else None
                        label = corpus.as_label(label, place, label_column)
                    yield corpus.Document(text, place, at - wanted.start + 1, label)
                row = inside.stop

    return corpus.Corpus(
        name=str(part),
        identity=["hf", column, [wanted.start, wanted.stop], *identities],
        size_bytes=sum(sizes),
        total=len(wanted),
        read=read,
    )


def _class_names(schema: Any, label_column: str | None) -> list[str] | None:
    """What the numbers of a column of class labels stand for; None of another column.

    datasets writes it into the schema of its Arrow files.
    """
    described = (schema.metadata or {}).get(b"huggingface")
    if label_column is None or described is None:
        return None
    feature = json.loads(described)["info"]["features"].get(label_column, {})
    return feature.get("names") if feature.get("_type") == "ClassLabel" else None


def _find_split(
    folder: storage.Path, split: str | None
) -> tuple[storage.Path, str | None, str | None]:
    """The folder of a split's own data set, and the bounds that the split names."""
    is_many = (folder / MARKS[0]).exists()
    if is_many:
        names = _read_json(folder / MARKS[0])["splits"]
    elif (folder / MARKS[1]).exists():
        # A data set without splits calls itself `train`, as datasets does.
        names = [_read_json(folder / MARKS[1]).get("_split") or "train"]
    else:
        raise errors.UserError(
            f"{folder}: no data set that datasets' save_to_disk wrote: neither "
            f"{MARKS[0]} nor {MARKS[1]} is there"
        )
    if split is None and len(names) > 1:
        raise errors.UserError(f"{folder}: name a split; present: {', '.join(names)}")
    match = _SPLIT.fullmatch(names[0] if split is None else split)
    if match is None:
        raise errors.UserError(
            f"{folder}: {split!r} is no split; write train, train[:80%] or train[10:20]"
        )
    name, begin, end = match.groups()
    if name not in names:
        raise errors.UserError(
            f"{folder}: no split {name!r}; {corpus.near_miss(name, names)}"
        )
    return (folder / name if is_many else folder), begin, end


def _bound(text: str | None, rows: int) -> int | None:
    """`80%` or `100` as a row number; percentages round to the closest row."""
    if text is None or not text.endswith("%"):
        return None if text is None else int(text)
    return round(int(text[:-1]) * rows / 100)


def _batches(file: storage.Path) -> Iterator[Any]:
    with _opened(file) as stream:
        yield from stream


@contextlib.contextmanager
def _opened(file: storage.Path) -> Iterator[Any]:
    """An Arrow stream, which gives its record batches; if local, mapped into memory."""
    import pyarrow

    is_remote = isinstance(file, storage.Remote)
    with storage.reading(file) if is_remote else pyarrow.memory_map(str(file)) as data:
        yield pyarrow.ipc.open_stream(data)


def _read_json(path: storage.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{path}: cannot be read: {error}") from error
