"""Config and params -> a Hugging Face folder, tensor by tensor."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gptjax import errors, grids, model, sharding, tree
from gptjax.convert import (
    compressed,
    families,
    folders,
    hf_config,
    names,
    padding,
    safetensors_file,
    tensors,
)

_PIECE_BYTES = 16 * 2**20
_Read = Callable[[], Iterable[np.ndarray]]


def save(
    folder: str | pathlib.Path,
    config: model.Config,
    params: Any,
    *,
    like: str | pathlib.Path | None = None,
    tokenizer: folders.Tokenizer | None = None,
    chat_template: str | None = None,
    on_grid: grids.OnGrid | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that stock transformers loads, without custom code.

    Stock transformers needs as many heads as make up `n_embd`, and of some families as
    many neurons. Where some were removed, zeros stand in for them, which change no
    logit; see `padding.padding_note`.

    Tensors are gathered and written one by one, so that the host never holds a
    second copy of the model. Where params are spread over several processes all of
    them must call this; the first one writes.

    Args:
      folder: replaced, if it holds a model written before; appears whole or not at
        all.
      params: of any of the dtypes float32, float16 and bfloat16, which are kept.
      like: the model folder whose tokenizer, generation_config.json and fields of
        config.json outside `model.Config` are kept.
      tokenizer: what is written in place of the one of `like`; None: that one.
      chat_template: Jinja that the tokenizer gets in place of its own; None: it keeps
        that.
      on_grid: kernels whose codes are written, as `compressed` says, in place of their
        values.
      max_shard_bytes: a checkpoint larger than that is split into files of at most
        that many bytes of tensors; only a single larger tensor exceeds it.

    Raises:
      UserError: the folder is `like` itself, holds anything else, or cannot be
        written; heads that cannot be made up to `n_embd`, or that would have to be
        with a grid; several classifiers, or one that transformers has not.
      ValueError: params that are not those of `config`.
    """
    like = None if like is None else pathlib.Path(like)
    flat = check(config, params)
    if len(config.classifiers) > 1:
        several = ", ".join(each.name for each in config.classifiers)
        raise errors.UserError(
            f"{folder}: a Hugging Face model has one classifier, this one {several}"
        )
    family = families.FAMILIES[config.family]
    if on_grid is not None and padding.is_padded(config):
        raise errors.UserError(
            f"{folder}: {family.title} models of transformers have no such heads or "
            "neurons; they are filled up with zeros, which does not go with a grid"
        )
    config = padding.padded(config)
    contents: list[tuple[safetensors_file.Entry, _Read]] = []
    for name, leaf, part, layer in names.in_hf_order(config):
        read = functools.partial(pieces, flat[leaf.path], leaf, part, layer)
        if on_grid is not None and leaf.path in on_grid.scales:
            contents += compressed.tensors_of(
                *(name, leaf, part, layer, read, on_grid),
                activation_bits=config.activation_bits,
                is_conv1d=family.has_conv1d,
            )
        else:
            dtype = np.dtype(flat[leaf.path].dtype)
            contents.append((safetensors_file.Entry(name, dtype, part.hf_shape), read))
    entries = [entry for entry, _ in contents]
    reads = {entry.name: read for entry, read in contents}
    shards = _split(entries, max_shard_bytes)
    with folders.replacing(pathlib.Path(folder), source=like) as staging:
        is_writer = jax.process_index() == 0
        for file_name, shard in shards.items():
            write_file(staging / file_name, shard, reads)
        if is_writer:
            if len(shards) > 1:
                _write_index(staging, shards)
            dtype = widest([np.dtype(leaf.dtype) for leaf in flat.values()])
            folders.write_sidecars(
                staging,
                config,
                dtype=dtype,
                like=like,
                tokenizer=tokenizer,
                chat_template=chat_template,
                on_grid=on_grid,
            )


def write_file(
    path: pathlib.Path,
    entries: list[safetensors_file.Entry],
    reads: Mapping[str, _Read],
) -> None:
    """Writes a safetensors file; all processes must call this, the first one writes.

    Args:
      reads: of each entry's name, what gives its tensor in pieces whose bytes follow
        each other.
    """
    with _opened(path if jax.process_index() == 0 else None) as write:
        entries = safetensors_file.in_file_order(entries)
        write(safetensors_file.header(entries))
        for entry in entries:
            for piece in reads[entry.name]():
                # A buffer of bfloat16 is nothing that Python knows.
                flat_piece = np.ascontiguousarray(piece).reshape(-1)
                write(flat_piece.view(np.uint8).data)


def check(config: model.Config, params: Any) -> dict[str, Any]:
    """The leaves of params by slash path, checked to be those of `config`.

    Raises:
      ValueError: other leaves or shapes than those of `config`.
      UserError: a dtype that checkpoints do not have.
    """
    flat = tree.flatten(params)
    shapes = {leaf.path: leaf.shape for leaf in names.leaves(config)}
    if {path: leaf.shape for path, leaf in flat.items()} != shapes:
        wrong = sorted(
            path
            for path in flat.keys() | shapes.keys()
            if path not in flat or flat[path].shape != shapes.get(path)
        )
        raise ValueError(f"params are not those of {config}: {', '.join(wrong)}")
    for path, leaf in flat.items():
        if np.dtype(leaf.dtype) not in tensors.FLOATING:
            raise errors.UserError(
                f"{path} is of dtype {leaf.dtype}; checkpoints hold float32, float16 "
                "and bfloat16"
            )
    return flat


def widest(dtypes: list[np.dtype]) -> np.dtype:
    """The dtype that holds every number of all of them."""
    return dtypes[0] if len(set(dtypes)) == 1 else np.dtype(np.float32)


def pieces(
    leaf: Any, entry: names.Leaf, part: names.Part, layer: int
) -> Iterator[np.ndarray]:
    """One tensor of a leaf on this host, in pieces whose bytes follow each other.

    What the leaf has less than `entry`, neurons and heads, is zeros. Always of fresh
    arrays: reading a sharded one as numpy would keep what was gathered for as long as
    the params themselves live.
    """
    if entry.is_stacked:
        if isinstance(leaf, jax.Array):
            own = jax.lax.dynamic_index_in_dim(leaf, np.int32(layer), keepdims=False)
            own = sharding.to_host(own)
        else:
            own = np.asarray(leaf)[layer]
        yield part.of_leaf(padding.pad(own, entry.layer_shape))
    elif not isinstance(leaf, jax.Array):
        yield np.asarray(leaf)
    else:
        # These lie in the checkpoint as they do here.
        count = leaf.shape[0]
        rows = max(1, _PIECE_BYTES * count // leaf.nbytes)
        for start in range(0, count, rows):
            size = min(rows, count - start)
            rows_of = jax.lax.dynamic_slice_in_dim(leaf, np.int32(start), size)
            yield sharding.to_host(rows_of)


def _split(
    entries: list[safetensors_file.Entry], max_shard_bytes: int
) -> Mapping[str, list[safetensors_file.Entry]]:
    """The entries by file name, split and named as transformers does it."""
    if max_shard_bytes < 1:
        raise errors.UserError(
            f"max_shard_bytes is {max_shard_bytes}; it must be at least 1"
        )
    shards: list[list[safetensors_file.Entry]] = []
    current: list[safetensors_file.Entry] = []
    for entry in entries:
        if entry.nbytes > max_shard_bytes:
            # Alone, and those before and after it are not parted.
            shards.append([entry])
            continue
        if sum(e.nbytes for e in current) + entry.nbytes > max_shard_bytes:
            shards.append(current)
            current = []
        current.append(entry)
    if current:
        shards.append(current)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


@contextlib.contextmanager
def _opened(path: pathlib.Path | None) -> Iterator[Any]:
    """A function that writes bytes to `path`, or drops them where there is none."""
    if path is None:
        yield lambda data: None
        return
    with path.open("wb") as file:
        yield file.write


def _write_index(
    folder: pathlib.Path, shards: Mapping[str, list[safetensors_file.Entry]]
) -> None:
    """model.safetensors.index.json: which file holds which tensor."""
    entries = [entry for shard in shards.values() for entry in shard]
    values = {
        "metadata": {
            "total_parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
            "total_size": sum(e.nbytes for e in entries),
        },
        "weight_map": {
            entry.name: file for file, shard in shards.items() for entry in shard
        },
    }
    hf_config.write_json(folder / "model.safetensors.index.json", values)
