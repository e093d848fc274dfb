"""A Hugging Face folder -> config and params, leaf by leaf from file to device."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gptjax import errors, grids, model, tree
from gptjax.convert import (
    checkpoint_files,
    compressed,
    families,
    hf_config,
    names,
    native,
    tensors,
)

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
    family = families.FAMILIES[config.family]
    stored = checkpoint_files.open_folder(folder, family)
    settings = hf_config.read_quantization(folder)
    if settings is not None:
        stored = compressed.decoded(stored, settings, is_conv1d=family.has_conv1d)
    found = _check_names(config, leaves, stored, folder)
    return config, placed(config, leaves, found, shardings=shardings, dtype=dtype)


def placed(
    config: model.Config,
    leaves: Sequence[names.Leaf],
    found: Mapping[str, tensors.Tensor],
    *,
    shardings: Shardings | None,
    dtype: Any,
) -> Any:
    """The params of `config`, made of tensors that are all there.

    Args:
      leaves: which of them make up which leaf.
      shardings, dtype: as for `load`.

    Raises:
      UserError: a tensor of a wrong shape or dtype.
    """
    dtypes = {leaf.path: _check_tensors(leaf, found, dtype) for leaf in leaves}
    flat_shardings: Mapping[str, Any] = {}
    if shardings is not None:
        flat_shardings = tree.flatten(shardings(model.shapes(config)))
    flat = {}
    for leaf in leaves:
        sharding = flat_shardings.get(leaf.path)
        flat[leaf.path] = _place(leaf, found, dtypes[leaf.path], sharding)
        # Else the buffers of later leaves pile up behind a slow transfer.
        flat[leaf.path].block_until_ready()
    return tree.unflatten(flat)


def load_grid(folder: str | pathlib.Path) -> grids.OnGrid | None:
    """Which kernels of a folder are codes, and their scales; None where none are.

    Raises:
      UserError: as `load` does.
    """
    folder = pathlib.Path(folder)
    config = hf_config.read_config(folder)
    settings = hf_config.read_quantization(folder)
    if settings is None or native.is_native(folder):
        return None
    grid = settings.grid
    family = families.FAMILIES[config.family]
    stored = checkpoint_files.open_folder(folder, family)
    decoded = compressed.decoded(stored, settings, is_conv1d=family.has_conv1d)
    scales = {
        leaf.path: compressed.scales_of(leaf, stored, grid, is_conv1d=family.has_conv1d)
        for leaf in names.leaves(config)
        if all(isinstance(decoded[name], compressed.Coded) for name in leaf.names)
    }
    return grids.OnGrid(grid, scales)


def _check_names(
    config: model.Config,
    leaves: tuple[names.Leaf, ...],
    found: Mapping[str, tensors.Tensor],
    folder: pathlib.Path,
) -> dict[str, tensors.Tensor]:
    """`found` without old buffers and a tied head; an error unless all fits."""
    family = families.FAMILIES[config.family]
    head, tokens = map(family.name_of, ("head/embedding", "embed/tokens/embedding"))
    found = {
        name: tensor
        for name, tensor in found.items()
        if not family.is_buffer(name, config.n_layer)
    }
    wanted = {name for leaf in leaves for name in leaf.names}
    missing = sorted(wanted - found.keys())
    if missing:
        hint = ""
        if missing == [head]:
            hint = "; a checkpoint without a head needs tie_word_embeddings: true"
        raise errors.UserError(
            f"{folder}: the tensor {missing[0]} is missing{_and_more(missing)}{hint}"
        )
    if head in found and head not in wanted:
        if not found[head].equals(found[tokens]):
            raise errors.UserError(
                f"{folder}: tie_word_embeddings is true, but {head} is not equal to "
                f"{tokens}; a head of its own needs tie_word_embeddings: false"
            )
        del found[head]
    unknown = sorted(found.keys() - wanted)
    if unknown:
        raise errors.UserError(
            f"{found[unknown[0]].file.path}: {unknown[0]}{_and_more(unknown)} is no "
            f"tensor of a language model of {family.title} with this config"
        )
    return found


def _and_more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _check_tensors(
    leaf: names.Leaf, found: Mapping[str, tensors.Tensor], dtype: Any
) -> np.dtype:
    """The dtype that `leaf` will have; an error if one of its tensors cannot be it."""
    shapes = {name: part.hf_shape for part in leaf.parts for name in part.names}
    for name, shape in shapes.items():
        array, path = found[name].array, found[name].file.path
        if array.shape != shape:
            raise errors.UserError(
                f"{path}: {name} has shape {array.shape}; by the config it must be "
                f"{shape}"
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
    leaf: names.Leaf,
    found: Mapping[str, tensors.Tensor],
    dtype: np.dtype,
    sharding: Any,
) -> jax.Array:
    """The leaf made of its tensors, on the devices of `sharding`."""
    buffers: dict[tuple, np.ndarray] = {}

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Devices that keep copies of the same part ask for it one by one.
        key = tuple(s.indices(n) for s, n in zip(index, leaf.shape, strict=True))
        if key not in buffers:
            buffers[key] = _read(leaf, found, dtype, [range(*bounds) for bounds in key])
        return buffers[key]

    if sharding is None:
        # Uncommitted, so that it may meet arrays on other devices.
        return jax.device_put(read((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, sharding, read)


def _read(
    leaf: names.Leaf,
    found: Mapping[str, tensors.Tensor],
    dtype: np.dtype,
    ranges: list[range],
) -> np.ndarray:
    """The part of a leaf that lies in `ranges`, one for each axis."""
    out = _aligned(tuple(len(r) for r in ranges), dtype)
    layers, own, targets = range(1), ranges, [out]
    if leaf.is_stacked:
        (layers, *own), targets = ranges, list(out)
    index = [slice(r.start, r.stop) for r in own]
    for part in leaf.parts:
        # No mesh splits the axis of which a tensor holds a part.
        inside = [
            slice(None) if isinstance(there, slice) and there != slice(None) else here
            for here, there in zip(index, part.where, strict=True)
            if isinstance(there, slice)
        ]
        for layer, target in zip(layers, targets, strict=True):
            tensor = found[part.names[layer]]
            view = part.of_tensor(tensor.array)[tuple(inside)]
            try:
                tensor.copy_into(target[part.where], view)
            except FloatingPointError as error:
                raise errors.UserError(
                    f"{tensor.file.path}: {part.names[layer]} has numbers too large "
                    f"for {dtype}"
                ) from error
    return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that XLA's CPU client can take over without copying."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + count].view(dtype).reshape(shape)
