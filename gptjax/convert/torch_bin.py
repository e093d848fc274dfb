"""`pytorch_model.bin` without torch: tensors that stay in the mapped file.

`torch.save` writes a pickle that names storages, and the storages' bytes beside it:
since torch 1.6 as members of an uncompressed zip archive, before that one after the
other in a plain file. The pickle is read by an unpickler that knows the handful of
functions needed for tensors and refuses everything else, as torch's `weights_only`
does, so that a checkpoint can run no code.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from gptjax import errors
from gptjax.convert import tensors

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass
class _Storage:
    """A run of bytes that tensors are views of."""

    dtype: np.dtype
    key: str
    count: int
    offset: int | None = None
    """Of its first byte in the file; known after the pickle is read."""


@dataclasses.dataclass
class _View:
    """A tensor, as the pickle tells it: all in elements, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, stride, *_) -> _View:
    """Stands for `torch._utils._rebuild_tensor_v2`; what follows is autograd's."""
    return _View(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(view, *_) -> _View:
    """Stands for `torch._utils._rebuild_parameter`."""
    return view


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads what makes up tensors, and nothing else."""

    def __init__(self, file: io.BufferedIOBase):
        # Python 2 wrote some of the oldest checkpoints.
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no part of a tensor"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it holds an unknown object {kind!r}")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("it holds a storage that is part of another")
        return self.storages.setdefault(key, _Storage(dtype, key, count))


def read(path: pathlib.Path) -> dict[str, tensors.Tensor]:
    """The tensors of a file that `torch.save` wrote, by name.

    Raises:
      UserError: the file is missing, truncated or no checkpoint of tensors alone.
    """
    file = tensors.MappedFile(path)
    try:
        if file.read(0, 4) == b"PK\x03\x04":
            views = _read_zip(path, file)
        else:
            views = _read_legacy(path)
        if not isinstance(views, dict):
            raise pickle.UnpicklingError("it holds no dict of tensors")
        return {
            name: tensors.Tensor(_resolve(name, view, file), file)
            for name, view in views.items()
        }
    except (
        # What a pickle of garbage may raise, by pickle's own documentation.
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        struct.error,
        AttributeError,
        EOFError,
        ImportError,
        IndexError,
        KeyError,
        MemoryError,
        OSError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise errors.UserError(
            f"{path}: truncated, or no PyTorch checkpoint of tensors: {reason}"
        ) from error


def _read_zip(path: pathlib.Path, file: tensors.MappedFile) -> Any:
    """The pickled object of a zip archive, its storages' places filled in."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("its archive has not one data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        result = unpickler.load()
    for key, storage in unpickler.storages.items():
        info = members[f"{root}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"{info.filename} is compressed")
        if info.file_size < storage.count * storage.dtype.itemsize:
            raise pickle.UnpicklingError(f"{info.filename} is too short")
        # The central directory does not say how long the local header is.
        local = file.read(info.header_offset, 30)
        name_bytes, extra_bytes = struct.unpack("<26xHH", local)
        storage.offset = info.header_offset + 30 + name_bytes + extra_bytes
    return result


def _read_legacy(path: pathlib.Path) -> Any:
    """The same for the format before torch 1.6."""
    with path.open("rb") as stream:
        if _Unpickler(stream).load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("it does not begin as one")
        if _Unpickler(stream).load() != _LEGACY_PROTOCOL:
            raise pickle.UnpicklingError("an unknown version of the format")
        if not _Unpickler(stream).load()["little_endian"]:
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        unpickler = _Unpickler(stream)
        result = unpickler.load()
        keys: Sequence[str] = _Unpickler(stream).load()
        place = stream.tell()
        for key in keys:
            storage = unpickler.storages[key]
            stream.seek(place)
            (count,) = struct.unpack("<q", stream.read(8))
            if count != storage.count:
                raise pickle.UnpicklingError(f"storage {key} has another length")
            storage.offset = place + 8
            place += 8 + count * storage.dtype.itemsize
    return result


def _resolve(name: Any, view: Any, file: tensors.MappedFile) -> np.ndarray:
    """The array of a view, checked to lie within its storage."""
    if not isinstance(name, str) or not isinstance(view, _View):
        raise pickle.UnpicklingError(f"{name!r} is no tensor but {view!r:.60}")
    storage = view.storage
    if storage.offset is None:
        raise pickle.UnpicklingError(f"the storage of {name} is missing")
    whole = file.array(storage.offset, (storage.count,), storage.dtype)
    if math.prod(view.shape) == 0:
        return whole[:0].reshape(view.shape)
    if len(view.shape) != len(view.stride) or min(0, view.offset, *view.stride) < 0:
        raise pickle.UnpicklingError(f"{name} has a broken shape")
    steps = (s * (n - 1) for n, s in zip(view.shape, view.stride, strict=True))
    if view.offset + sum(steps) >= storage.count:
        raise pickle.UnpicklingError(f"{name} reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(
        whole[view.offset :],
        view.shape,
        [step * storage.dtype.itemsize for step in view.stride],
        writeable=False,
    )
