"""Token ids of a whole source, on disk, mapped into memory."""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from typing import Any

import numpy as np

_CHECKED_NUMBERS = 1 << 24
_ATTEMPTS = 3
_ARRAYS = ("ids", "document_starts")


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
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in _ARRAYS}
        self._checksums = dict.fromkeys(_ARRAYS, 0)
        self.tokens = 0
        """How many are written."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, ids: np.ndarray) -> None:
        """More ids of the document that is being written."""
        self._write("ids", ids.astype(self._dtype))
        self.tokens += len(ids)

    def end_document(self, begin: int) -> None:
        """The ids from `begin` on, up to here, were a document."""
        self._write("document_starts", np.array([begin], np.int64))

    def finish(self, **facts: Any) -> None:
        """Describes the folder, `facts` included; without this it does not read."""
        self.__exit__()
        meta = {"dtype": self._dtype.name, "checksums": self._checksums, **facts}
        (self._folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")

    def _write(self, name: str, array: np.ndarray) -> None:
        data = array.tobytes()
        self._files[name].write(data)
        self._checksums[name] = zlib.crc32(data, self._checksums[name])


def read(folder: pathlib.Path, name: str) -> tuple[Tokens, dict[str, Any]] | None:
    """The tokens of a folder and its facts, or None if it is not there or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        ids = np.memmap(folder / "ids.bin", meta["dtype"], "r")
        starts = np.memmap(folder / "document_starts.bin", np.int64, "r")
        checksums = {"ids": _checksum(ids), "document_starts": _checksum(starts)}
        is_whole = checksums == meta["checksums"]
        tokens = Tokens(ids, starts, meta["bytes"], name, checksums["ids"])
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


def _checksum(array: np.ndarray) -> int:
    """zlib.crc32 of an array's bytes, read in parts."""
    checksum = 0
    for begin in range(0, len(array), _CHECKED_NUMBERS):
        checksum = zlib.crc32(array[begin : begin + _CHECKED_NUMBERS], checksum)
    return checksum
