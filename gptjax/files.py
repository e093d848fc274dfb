"""Files that are whole or not there: written beside, then renamed."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from gptjax import errors


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` to write to, renamed to it if all goes well.

    Makes the parent folders. Whatever a failed attempt left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def derived(path: pathlib.Path, sources: Iterable[str]) -> Iterator[pathlib.Path]:
    """`replacing` for a file that a user names and that is made of others.

    Raises:
      UserError: it is one of the sources or lies in a folder that is, or it cannot be
        written.
    """
    whole = path.resolve()
    for source in map(pathlib.Path, sources):
        if source.exists() and any(
            place.exists() and place.samefile(source)
            for place in (whole, *whole.parents)
        ):
            raise errors.UserError(
                f"{path}: is the source itself, or lies in it ({source}), and would "
                "change it; name another file"
            )
    with told(path), replacing(path) as beside:
        yield beside


@contextlib.contextmanager
def told(path: pathlib.Path) -> Iterator[None]:
    """Failures to write what lies at `path` or below become a `UserError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise errors.UserError(
            f"{place}: cannot be written: {error.strerror}"
        ) from error


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """A folder that results are to be written into, made if it is not there.

    Raises:
      UserError: it cannot be made or written into.
    """
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Found out now, and not when hours of work are to be written.
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a UTF-8 file that readers see whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")
