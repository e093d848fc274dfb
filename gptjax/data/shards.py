"""Token ids in many files of array records, read where they are wanted."""

import bisect
import collections
import dataclasses
import itertools
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptjax import errors

_OPEN_FILES = 256
# One call of the reader for no more than so many ids: a long slice is read in parts.
_READ_IDS = 1 << 22
_READER = "readahead_buffer_size:0,max_parallelism:0"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of ids.

    Attributes:
      name: of the file.
      tokens: how many ids it holds.
      size_bytes, checksum: of the file; zlib.crc32.
    """

    name: str
    tokens: int
    size_bytes: int
    checksum: int


class Ids:
    """The ids of all shards, one after another, as an array of one axis.

    Slices and arrays of places are read from the files as NumPy arrays; nothing else
    is held. Each record carries a hash, so that damaged ids are never given. (Grain's
    `ArrayRecordDataSource` keeps every file open that it ever read: a large corpus has
    more files than a process may open.)
    """

    ndim = 1

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        dtype: str,
        block_tokens: int,
        local: Callable[[Shard], pathlib.Path],
    ):
        """`local` gives the file of a shard; it may have to fetch it.

        Args:
          block_tokens: ids in a record, but for a shard's last.
        """
        self.dtype = np.dtype(dtype)
        self._stored = self.dtype.newbyteorder("<")
        self._shards, self._block, self._local = shards, block_tokens, local
        begins = itertools.accumulate((shard.tokens for shard in shards), initial=0)
        *self._begins, self._count = begins
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int]:
        return (self._count,)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it always is one
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            wanted = range(self._count)[places]
            if wanted.step != 1:
                return self[np.arange(wanted.start, wanted.stop, wanted.step)]
            return self._windows(np.array(wanted.start), len(wanted))
        places = np.asarray(places)
        is_inside = (places >= -self._count) & (places < self._count)
        if not is_inside.all():
            raise IndexError(f"{places[~is_inside].flat[0]} of {self._count} ids")
        places = np.where(places < 0, places + self._count, places)
        if places.ndim and places.size and (np.diff(places) == 1).all():
            return self._windows(places[..., 0], places.shape[-1])
        return self._windows(places, 1)[..., 0]

    def _windows(self, begins: np.ndarray, length: int) -> np.ndarray:
        """The ids from each place on, (..., length)."""
        ids = np.empty((*begins.shape, length), self.dtype)
        for row, begin in zip(
            ids.reshape(begins.size, length), begins.ravel().tolist(), strict=True
        ):
            self._fill(row, begin)
        return ids

    def _fill(self, row: np.ndarray, begin: int) -> None:
        done = 0
        while done < len(row):
            number = bisect.bisect_right(self._begins, begin + done) - 1
            offset = begin + done - self._begins[number]
            left = self._shards[number].tokens - offset
            count = min(len(row) - done, left, _READ_IDS)
            first = offset // self._block
            blocks = range(first, (offset + count - 1) // self._block + 1)
            ids = np.frombuffer(self._read(number, blocks), self._stored)
            ids = ids[offset - first * self._block :][:count]
            row[done : done + count] = ids
            done += count

    def _read(self, number: int, blocks: range) -> bytes:
        try:
            return b"".join(self._reader(number).read(list(blocks)))
        except (RuntimeError, ValueError, IndexError) as error:
            path = self._local(self._shards[number])
            raise errors.UserError(
                f"{path}: damaged ({str(error).splitlines()[0]}); remove its folder, "
                "which is then made again"
            ) from error

    def _reader(self, number: int) -> Any:
        from array_record.python import array_record_module

        with self._lock:
            if number in self._readers:
                self._readers.move_to_end(number)
                return self._readers[number]
        # Outside the lock: a shard may take long to come.
        path = self._local(self._shards[number])
        reader = array_record_module.ArrayRecordReader(
            str(path), _READER, file_reader_buffer_size=1 << 14
        )
        with self._lock:
            self._readers[number] = reader
            if len(self._readers) > _OPEN_FILES:
                self._readers.popitem(last=False)
        return reader
