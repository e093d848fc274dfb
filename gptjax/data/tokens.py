"""Token ids of a whole source, on disk, mapped into memory."""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from typing import Any

import numpy as np

_CHECKED_TOKENS = 1 << 24
_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The documents of a source, tokenized and joined."""

    ids: np.ndarray
    """(N,) uint16 or int32; N is `len()`."""
    document_starts: np.ndarray
    """Where in `ids` each document begins, rising from 0; int64."""
    bytes: int
    """How long all texts are in UTF-8."""
    name: str = "the tokens"
    """What messages call the source."""
    checksum: int = 0
    """Of `ids`, to tell that a run resumes on the same ones."""

    def __len__(self) -> int:
        return len(self.ids)


class Writer:
    """Appends to a folder that `read` reads."""

    def __init__(self, folder: pathlib.Path, dtype: np.dtype):
        """`folder` must exist; `dtype` must hold every id."""
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._ids = (folder / "ids.bin").open("wb")
        self._starts = (folder / "document_starts.bin").open("wb")
        self._counts = {"tokens": 0, "documents": 0}
        self._checksum = 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._ids.close()
        self._starts.close()

    @property
    def tokens(self) -> int:
        """How many are written."""
        return self._counts["tokens"]

    def append(self, ids: np.ndarray) -> None:
        """More ids of the document that is being written."""
        data = ids.astype(self._dtype).tobytes()
        self._ids.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._counts["tokens"] += len(ids)

    def end_document(self, begin: int) -> None:
        """The ids from `begin` on, up to here, were a document."""
        self._starts.write(np.int64(begin).tobytes())
        self._counts["documents"] += 1

    def finish(self, **facts: Any) -> None:
        """Describes the folder, `facts` included; without this it does not read."""
        self.__exit__()
        meta = {"dtype": self._dtype.name, "checksum": self._checksum}
        text = json.dumps({**meta, **self._counts, **facts}, indent=1)
        (self._folder / "meta.json").write_text(text + "\n")


def read(folder: pathlib.Path, name: str) -> tuple[Tokens, dict[str, Any]] | None:
    """The tokens of a folder and its facts, or None if it is not there or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        ids = np.memmap(folder / "ids.bin", meta["dtype"], "r")
        starts = np.memmap(folder / "document_starts.bin", np.int64, "r")
        is_whole = (
            len(ids) == meta["tokens"]
            and len(starts) == meta["documents"]
            and _checksum(ids) == meta["checksum"]
        )
        tokens = Tokens(ids, starts, meta["bytes"], name, meta["checksum"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (tokens, meta) if is_whole else None


def put(folder: pathlib.Path, place: pathlib.Path) -> None:
    """Moves a finished folder to its place, unless another process was faster.

    What stands there damaged goes beside `folder`, whose parent is the caller's to
    remove.
    """
    for attempt in range(_ATTEMPTS):
        try:
            folder.rename(place)
            return
        except OSError as error:
            if read(place, "") is not None:
                return
            failure = error
        with contextlib.suppress(FileNotFoundError):
            place.rename(folder.with_name(f"damaged-{attempt}"))
    raise failure


def _checksum(ids: np.ndarray) -> int:
    """zlib.crc32 of an array's bytes, read in parts."""
    checksum = 0
    for begin in range(0, len(ids), _CHECKED_TOKENS):
        checksum = zlib.crc32(ids[begin : begin + _CHECKED_TOKENS], checksum)
    return checksum
