"""A config's source, whatever its format, as a corpus."""

from collections.abc import Iterator
from typing import Any

from gptjax import config, errors
from gptjax.data import arrow, corpus, files, storage, tfds


def open_corpus(source: config.Source, *, labelled: bool = False) -> corpus.Corpus:
    """The documents of a source, found but not read yet.

    Args:
      labelled: whether each is to have its label.

    Raises:
      UserError: one line naming the file, folder or data set and what is wrong.
    """
    kind = source.format or _infer(source)
    label_column = source.label_column if labelled else None
    if kind == "tfds":
        if "://" in source.path:
            raise errors.UserError(
                f"{source.path}: TFDS data sets are read from local folders alone"
            )
        return tfds.open_corpus(
            source.path, source.column, source.split, source.data_dir, label_column
        )
    path = storage.path(source.path)
    if not path.exists():
        raise not_there(path, "; a TFDS data set needs `format: tfds`")
    if source.data_dir is not None:
        raise errors.UserError(f"{path}: data_dir is for TFDS data sets alone")
    if kind == "hf":
        return arrow.open_corpus(path, source.column, source.split, label_column)
    if source.split is not None:
        raise errors.UserError(
            f"{path}: split is for Hugging Face and TFDS data sets, not {kind} files"
        )
    try:
        return files.open_corpus(path, kind, source.column, label_column)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_objects(path: storage.Path) -> Iterator[tuple[dict[str, Any], str, int]]:
    """`files.read_objects` of a file, or of all .jsonl files below a folder.

    Raises:
      UserError: a line that is no JSON object, a file that cannot be read.
    """
    try:
        for file in files.find(path, "jsonl") if path.is_dir() else [path]:
            yield from files.read_objects(file)
    except OSError as error:
        raise _unreadable(path, error) from error


def not_there(path: storage.Path, hint: str = "") -> Exception:
    """The error for a path with nothing at it."""
    return errors.UserError(f"{path}: there is no such file or folder{hint}")


def _unreadable(path: storage.Path, error: OSError) -> Exception:
    return errors.UserError(f"{path}: cannot be read: {error.strerror}")


def _infer(source: config.Source) -> str:
    """The format of a source that does not name one."""
    path = storage.path(source.path)
    if source.data_dir is not None:
        return "tfds"
    if not path.exists():
        return "text"
    if path.is_dir():
        if any((path / mark).exists() for mark in arrow.MARKS):
            return "hf"
        if (path / tfds.MARK).exists():
            return "tfds"
    kinds = [kind for kind in files.ENDINGS if files.find(path, kind)]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise errors.UserError(
            f"{path}: the folder holds {' and '.join(kinds)} files; say which with "
            "`format`"
        )
    endings = ", ".join(ending for each in files.ENDINGS.values() for ending in each)
    what = (
        f"the name ends in {path.suffix!r}" if path.suffix else "its name has no ending"
    )
    if path.is_dir():
        what = "the folder has no file of a known one"
    raise errors.UserError(
        f"{path}: unknown format: {what}; known endings are {endings}; for other names "
        "give `format` (text, jsonl, csv, hf or tfds)"
    )
