"""The safetensors format: a JSON header, then the bytes of the tensors.

Read and written here and not through the `safetensors` package, which copies whole
tensors on reading and wants all of a file's tensors at once for writing.
https://huggingface.co/docs/safetensors
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from gptjax import errors
from gptjax.convert import tensors

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def read(path: pathlib.Path) -> dict[str, tensors.Tensor]:
    """The tensors of a file by name.

    Raises:
      UserError: the file is missing, truncated or no safetensors file.
    """
    file = tensors.MappedFile(path)
    header_bytes = int.from_bytes(file.read(0, 8), "little")
    start = 8 + header_bytes
    if len(file) < start:
        raise errors.UserError(f"{path}: truncated, or no safetensors file")
    try:
        header = json.loads(file.read(8, header_bytes), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        entries = {name: _entry(**fields) for name, fields in header.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.UserError(
            f"{path}: its safetensors header is broken: {error}"
        ) from error
    end = max((stop for _, _, stop in entries.values()), default=0)
    if len(file) != start + end:
        raise errors.UserError(
            f"{path}: {len(file)} bytes long, but its header says {start + end}: "
            "truncated or corrupt"
        )
    found = {}
    for name, ((dtype, shape), begin, _) in entries.items():
        array = file.array(start + begin, shape, dtype)
        found[name] = tensors.Tensor(array, file)
    return found


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs; a ValueError if a key comes twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return result


def _entry(
    dtype: str, shape: Sequence[int], data_offsets: Sequence[int]
) -> tuple[tuple[np.dtype, tuple[int, ...]], int, int]:
    """(dtype, shape), begin, end of a header's entry; a ValueError if it is wrong."""
    if dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}")
    begin, end = data_offsets
    if min(0, begin, *shape) < 0:
        raise ValueError("a negative size")
    if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"shape {shape} of {dtype} does not fill {end - begin} bytes")
    return (_DTYPES[dtype], tuple(shape)), begin, end


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a header says of a tensor that is yet to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def in_file_order(entries: Sequence[Entry]) -> list[Entry]:
    """Wider dtypes first, so that every tensor is aligned; then by name."""
    return sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))


def header(entries: Sequence[Entry]) -> bytes:
    """The beginning of a file whose tensors' bytes follow in the order given."""
    values: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        values[entry.name] = {
            "dtype": _CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(values, separators=(",", ":")).encode()
    # Spaces, so that the tensors begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
