"""Tensors that stay in their files until a part of one is asked for."""

import dataclasses
import math
import mmap
import pathlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from gptjax import errors

FLOATING = {
    np.dtype(np.float32),
    np.dtype(np.float16),
    np.dtype(ml_dtypes.bfloat16),
}
_PIECE_BYTES = 16 * 2**20


class MappedFile:
    """A file mapped into memory, whose pages are given back after use.

    Pages of a mapping count as the process's own memory while they are resident;
    without giving them back, a checkpoint that has been read stays there a second
    time beside the arrays made of it.

    Raises:
      UserError: the file is missing, unreadable, empty or a Git LFS pointer.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise errors.UserError(
                f"{path}: cannot be read: {error.strerror}"
            ) from error
        except ValueError as error:
            raise errors.UserError(f"{path}: the file is empty") from error
        if self.read(0, 23) == b"version https://git-lfs":
            raise errors.UserError(
                f"{path}: a Git LFS pointer and not the weights; run `git lfs pull`"
            )

    def __len__(self) -> int:
        return len(self._map)

    def read(self, offset: int, count: int) -> bytes:
        """A copy of `count` bytes, fewer at the end of the file."""
        return self._map[offset : offset + count]

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A view of the file as an array in C order.

        Raises:
          UserError: if the file ends before the array does.
        """
        count = math.prod(shape)
        if offset < 0 or offset + count * dtype.itemsize > len(self):
            raise errors.UserError(f"{self.path}: truncated: it ends within a tensor")
        flat = np.frombuffer(self._map, np.uint8, count * dtype.itemsize, offset)
        return flat.view(dtype).reshape(shape)

    def release(self) -> None:
        """Gives the resident pages back; they are read again when touched again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file."""

    array: np.ndarray
    """A view of the file: reading it reads the file."""
    file: MappedFile

    def copy_into(self, out: np.ndarray, view: np.ndarray) -> None:
        """Copies `view`, of `array` and in the shape of `out`, casting to its dtype.

        Raises:
          FloatingPointError: a number that `out` is too narrow for.
        """
        # In the order of the file: by the axis that lies furthest apart there.
        axis = int(np.argmax(view.strides)) if view.ndim else 0
        view, out = np.moveaxis(view, axis, 0), np.moveaxis(out, axis, 0)
        with np.errstate(over="raise"):
            for rows in _pieces(view):
                out[rows] = view[rows]
                self.file.release()

    def equals(self, other: "Tensor") -> bool:
        """Whether both hold the same bytes in the same shape and dtype."""
        one, two = self.array, other.array
        if one.shape != two.shape or one.dtype != two.dtype:
            return False
        for rows in _pieces(one):
            if one[rows].tobytes() != two[rows].tobytes():
                return False
            self.file.release()
            other.file.release()
        return True


def _pieces(array: np.ndarray) -> Iterator[slice]:
    """Slices of rows of at most some megabytes that together cover `array`."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, _PIECE_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)
