"""Which files of a Hugging Face folder hold the weights, and what is in them."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from gptjax import errors
from gptjax.convert import (
    families,
    hf_config,
    safetensors_file,
    tensors,
    torch_bin,
)

# In the order in which transformers looks for them.
WEIGHTS = (
    ("model.safetensors", safetensors_file.read),
    ("model.safetensors.index.json", safetensors_file.read),
    ("pytorch_model.bin", torch_bin.read),
    ("pytorch_model.bin.index.json", torch_bin.read),
)


def open_folder(
    folder: pathlib.Path, family: families.Family
) -> Mapping[str, tensors.Tensor]:
    """Every tensor of the checkpoint in `folder` by its name, prefix filled in.

    Raises:
      UserError: no weights, a missing or broken file, an index and shards that do
        not agree, a tensor that is there twice.
    """
    file, read = _first(folder)
    if file.endswith(".index.json"):
        found = _open_shards(folder / file, read)
    else:
        found = read(folder / file)
    result: dict[str, tensors.Tensor] = {}
    for name, tensor in found.items():
        full = family.canonical(name)
        if full in result:
            raise errors.UserError(
                f"{tensor.file.path}: {full} is there twice, under another name too, "
                f"as without its prefix {family.prefix!r}"
            )
        result[full] = tensor
    return result


def _first(folder: pathlib.Path) -> tuple[str, Callable[[pathlib.Path], Any]]:
    """The file that transformers would begin with, and what reads it."""
    for file, read in WEIGHTS:
        if (folder / file).is_file():
            return file, read
    wanted = ", ".join(file for file, _ in WEIGHTS)
    raise errors.UserError(f"{folder}: holds no weights; looked for {wanted}")


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that `open_folder` reads, the one that it begins with first.

    Raises:
      UserError: no weights, or a broken index.
    """
    first = folder / _first(folder)[0]
    if first.suffix != ".json":
        return [first]
    return [
        first,
        *(folder / shard for shard in sorted({*_weight_map(first).values()})),
    ]


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    """Which shard holds which tensor, as an index says."""
    weight_map = hf_config.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) and pathlib.Path(shard).name == shard
        for shard in weight_map.values()
    ):
        raise errors.UserError(f"{index}: has no weight_map of names to file names")
    return weight_map


def _open_shards(index: pathlib.Path, read) -> dict[str, tensors.Tensor]:
    """The tensors of all the shards that an index names."""
    weight_map = _weight_map(index)
    result = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if not path.is_file():
            raise errors.UserError(
                f"{index}: names the shard {shard}, which is missing"
            )
        for name, tensor in read(path).items():
            if weight_map.get(name) != shard:
                said = weight_map.get(name, "in no shard")
                raise errors.UserError(f"{path}: holds {name}; the index has it {said}")
            result[name] = tensor
    missing = sorted(weight_map.keys() - result.keys())
    if missing:
        raise errors.UserError(
            f"{index}: {missing[0]} is not in its shard {weight_map[missing[0]]}"
        )
    return result
