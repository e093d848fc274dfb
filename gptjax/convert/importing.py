"""A Hugging Face folder -> config and params, leaf by leaf from file to device."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gptjax import errors, model, tree
from gptjax.convert import checkpoint_files, hf_config, names, native, tensors

# XLA's CPU client takes over a buffer that is so aligned instead of copying it.
_ALIGNMENT_BYTES = 64

Shardings = Callable[[Any], Any]


def load(
    folder: str | pathlib.Path,
    *,
    shardings: Shardings | None = None,
    dtype: Any = None,
) -> tuple[model.Config, Any]:
    """The config and params of the checkpoint in a Hugging Face or gptjax folder.

    Every device gets its own part of a leaf straight from the mapped file, so that
    host memory never holds more than the params that live there and one tensor.

    Args:
      folder: as from `resolve`.
      shardings: a function from a tree of shapes to a tree of shardings, e.g.
        `lambda shapes: sharding.param_shardings(mesh, shapes)`; None: everything
        on the default device.
      dtype: what every leaf is cast to; None: each keeps the dtype of its file.

    Raises:
      UserError: a field of the config that gptjax does not implement; a tensor that
        is unknown, missing, there twice, of a wrong shape or dtype; a broken file.
    """
    folder = pathlib.Path(folder)
    config = hf_config.read_config(folder)
    if native.is_native(folder):
        return config, native.load(folder, config, shardings=shardings, dtype=dtype)
    leaves = names.leaves(config)
    found = _check_names(config, leaves, checkpoint_files.open_folder(folder), folder)
    dtypes = {leaf.path: _check_tensors(leaf, found, dtype) for leaf in leaves}
    flat_shardings: Mapping[str, Any] = {}
    if shardings is not None:
        flat_shardings = tree.flatten(shardings(model.shapes(config)))
    flat = {}
    for leaf in leaves:
        parts = [found[name] for name in leaf.names]
        sharding = flat_shardings.get(leaf.path)
        flat[leaf.path] = _place(leaf, parts, dtypes[leaf.path], sharding)
        # Else the buffers of later leaves pile up behind a slow transfer.
        flat[leaf.path].block_until_ready()
    return config, tree.unflatten(flat)


def _check_names(
    config: model.Config,
    leaves: tuple[names.Leaf, ...],
    found: Mapping[str, tensors.Tensor],
    folder: pathlib.Path,
) -> dict[str, tensors.Tensor]:
    """`found` without old buffers and a tied head; an error unless all fits."""
    found = {name: t for name, t in found.items() if not names.is_buffer(name, config)}
    wanted = {name for leaf in leaves for name in leaf.names}
    missing = sorted(wanted - found.keys())
    if missing:
        hint = ""
        if missing == [names.HEAD]:
            hint = "; a checkpoint without a head needs tie_word_embeddings: true"
        raise errors.UserError(
            f"{folder}: the tensor {missing[0]} is missing{_and_more(missing)}{hint}"
        )
    if names.HEAD in found and names.HEAD not in wanted:
        if not found[names.HEAD].equals(found[names.TOKENS]):
            raise errors.UserError(
                f"{folder}: tie_word_embeddings is true, but {names.HEAD} is not equal "
                f"to {names.TOKENS}; a head of its own needs tie_word_embeddings: false"
            )
        del found[names.HEAD]
    unknown = sorted(found.keys() - wanted)
    if unknown:
        raise errors.UserError(
            f"{found[unknown[0]].file.path}: {unknown[0]}{_and_more(unknown)} is no "
            "tensor of a GPT-2 language model of this config"
        )
    return found


def _and_more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _check_tensors(
    leaf: names.Leaf, found: Mapping[str, tensors.Tensor], dtype: Any
) -> np.dtype:
    """The dtype that `leaf` will have; an error if one of its tensors cannot be it."""
    for name in leaf.names:
        array, path = found[name].array, found[name].file.path
        if array.shape != leaf.hf_shape:
            raise errors.UserError(
                f"{path}: {name} has shape {array.shape}; by the config it must be "
                f"{leaf.hf_shape}"
            )
        if array.dtype not in tensors.FLOATING:
            raise errors.UserError(
                f"{path}: {name} is of dtype {array.dtype}; gptjax reads float32, "
                "float16 and bfloat16"
            )
    if dtype is not None:
        return np.dtype(dtype)
    first = found[leaf.names[0]].array.dtype
    for name in leaf.names:
        if found[name].array.dtype != first:
            # Casting one of them would change its bytes in an export.
            raise errors.UserError(
                f"{found[name].file.path}: {name} is {found[name].array.dtype}, but "
                f"{leaf.names[0]} is {first}; layers of different dtypes cannot be "
                "stacked without a cast: ask for one dtype"
            )
    return first


def _place(
    leaf: names.Leaf, parts: list[tensors.Tensor], dtype: np.dtype, sharding: Any
) -> jax.Array:
    """The leaf made of its tensors, on the devices of `sharding`."""
    buffers: dict[tuple, np.ndarray] = {}

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Devices that keep copies of the same part ask for it one by one.
        key = tuple(s.indices(n) for s, n in zip(index, leaf.shape, strict=True))
        if key not in buffers:
            buffers[key] = _read(leaf, parts, dtype, [range(*bounds) for bounds in key])
        return buffers[key]

    if sharding is None:
        # Uncommitted, so that it may meet arrays on other devices.
        return jax.device_put(read((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, sharding, read)


def _read(
    leaf: names.Leaf,
    parts: list[tensors.Tensor],
    dtype: np.dtype,
    ranges: list[range],
) -> np.ndarray:
    """The part of a leaf that lies in `ranges`, one for each axis."""
    out = _aligned(tuple(len(r) for r in ranges), dtype)
    if leaf.is_stacked:
        layers, *ranges = ranges
        jobs = [(out[i], leaf.names[n], parts[n]) for i, n in enumerate(layers)]
    else:
        jobs = [(out, leaf.names[0], parts[0])]
    index = tuple(slice(r.start, r.stop) for r in ranges)
    for target, name, part in jobs:
        try:
            part.copy_into(target, shape=leaf.layer_shape, index=index)
        except FloatingPointError as error:
            raise errors.UserError(
                f"{part.file.path}: {name} has numbers too large for {dtype}"
            ) from error
    return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that XLA's CPU client can take over without copying."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + count].view(dtype).reshape(shape)
