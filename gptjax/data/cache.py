"""The folder that keeps a source's tokens: shards of array records and their index.

    tokens-00000.array_record, ...   the ids, in blocks
    document_starts.bin              int64
    index.json                       of both: sizes, checksums, and the source's facts

A folder in an object store looks the same; its index is written last. Of such a one, a
host keeps a copy of what it has read, a shard at a time.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gptjax import errors
from gptjax.data import shards, storage, tokens

BLOCK_TOKENS = 4096
"""Ids in a record: some windows long, and 2 % of overhead."""

_INDEX, _STARTS = "index.json", "document_starts.bin"
_ATTEMPTS = 3
# A larger folder is not read through when it is opened: records are checked when read.
_CHECKED_BYTES = 1 << 30
_PART_BYTES = 1 << 25


def cache_folder(name: str | None) -> storage.Path:
    """The folder of all caches that `data.cache_dir` names."""
    return storage.path(name or "~/.cache/gptjax/tokens")


class Writer:
    """Describes a folder of shards, which others write."""

    def __init__(self, folder: pathlib.Path):
        """`folder` must exist."""
        self._folder = folder
        self._shards: list[shards.Shard] = []
        self._starts = (folder / _STARTS).open("wb")
        self._starts_checksum = 0
        self.tokens = 0
        """How many the shards hold."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._starts.close()

    def path(self, number: int) -> pathlib.Path:
        """Where the shard of a number is to be written."""
        return self._folder / f"tokens-{number:05}.array_record"

    def add(
        self, number: int, *, count: int, starts: list[int], size: int, checksum: int
    ) -> None:
        """The shard of a number is written; those before it were added.

        Args:
          count: its ids.
          starts: where documents begin in it, counted from the first shard's begin.
          size, checksum: of its file.
        """
        data = np.array(starts, "<i8").tobytes()
        self._starts.write(data)
        self._starts_checksum = zlib.crc32(data, self._starts_checksum)
        path = self.path(number)
        if count:
            self._shards.append(shards.Shard(path.name, count, size, checksum))
            self.tokens += count
        else:
            path.unlink()

    def finish(self, *, dtype: np.dtype, **facts: Any) -> None:
        """Writes the index, `facts` included; without it the folder does not read."""
        self._starts.close()
        index = {
            **facts,
            "dtype": np.dtype(dtype).name,
            "block_tokens": BLOCK_TOKENS,
            "document_starts_checksum": self._starts_checksum,
            "shards": [dataclasses.astuple(shard) for shard in self._shards],
        }
        (self._folder / _INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")


def read(folder: storage.Path, name: str) -> tuple[tokens.Tokens, dict] | None:
    """The tokens of a folder and its index, or None if it is not there or damaged.

    Of a store's folder, shards are not looked at before they are used.
    """
    if isinstance(folder, storage.Remote):
        if not (folder / _INDEX).exists():
            return None
        local = functools.partial(_fetch, folder)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            index = json.loads((folder / _INDEX).read_text())
            starts = shards.Shard(_STARTS, 0, -1, index["document_starts_checksum"])
            return _tokens(index, _found(index), local, local(starts), name)
        return None
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        files = _found(index)
        sizes = [(folder / file.name).stat().st_size for file in files]
        is_whole = sizes == [file.size_bytes for file in files] and (
            _checksum(folder / _STARTS) == index["document_starts_checksum"]
        )
        if is_whole and sum(sizes) <= _CHECKED_BYTES:
            is_whole = all(_checksum(folder / f.name) == f.checksum for f in files)
        if not is_whole:
            return None
        return _tokens(
            index, files, lambda file: folder / file.name, folder / _STARTS, name
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _found(index: dict[str, Any]) -> list[shards.Shard]:
    return [shards.Shard(*entry) for entry in index["shards"]]


def _tokens(index, files, local, starts, name) -> tuple[tokens.Tokens, dict]:
    ids = shards.Ids(
        files,
        dtype=index["dtype"],
        block_tokens=index["block_tokens"],
        local=local,
    )
    # The shards are cut by the source alone: the same ids have the same files.
    checksum = zlib.crc32(json.dumps([file.checksum for file in files]).encode())
    mapped = np.memmap(starts, "<i8", "r")
    return tokens.Tokens(ids, mapped, index["bytes"], name, checksum), index


@contextlib.contextmanager
def making(place: storage.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which then is `place`, unless another process was faster."""
    parent = mirror(place).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=parent, prefix=f"{place.name}.", ignore_cleanup_errors=True
    ) as beside:
        made = pathlib.Path(beside, "tokens")
        made.mkdir()
        yield made
        if isinstance(place, storage.Remote):
            for file in sorted(made.iterdir(), key=lambda file: file.name == _INDEX):
                (place / file.name).upload(file)
        _put(made, mirror(place))


def mirror(place: storage.Path) -> pathlib.Path:
    """Where a host keeps what it has of a folder: there, or a copy of a store's."""
    if not isinstance(place, storage.Remote):
        return place
    return pathlib.Path("~/.cache/gptjax/fetched").expanduser() / place.name


def _put(folder: pathlib.Path, place: pathlib.Path) -> None:
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


def _fetch(folder: storage.Remote, file: shards.Shard) -> pathlib.Path:
    """This host's copy of a store's file, made if it is not there.

    A size of -1 is one that is not known.
    """
    kept = mirror(folder) / file.name
    if kept.exists() and (
        kept.stat().st_size == file.size_bytes
        or (file.size_bytes == -1 and _checksum(kept) == file.checksum)
    ):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as beside:
        fetched = pathlib.Path(beside, file.name)
        (folder / file.name).download(fetched)
        if _checksum(fetched) != file.checksum:
            raise errors.UserError(
                f"{folder / file.name}: damaged; remove its folder, which is then made "
                "again"
            )
        fetched.replace(kept)
    return kept


def _checksum(file: pathlib.Path) -> int:
    """zlib.crc32 of a file, read in parts."""
    checksum = 0
    with file.open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            checksum = zlib.crc32(part, checksum)
    return checksum
