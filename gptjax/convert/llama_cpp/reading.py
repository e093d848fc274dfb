"""A GGUF file that gptjax wrote -> config, params, and the files of a model folder."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from gptjax import errors, model
from gptjax.convert import hf_config, importing, names, tensors
from gptjax.convert.llama_cpp import architectures, blocks, writing

_TOKENIZER = "tokenizer.huggingface.json"


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of the file, like `tensors.Tensor`."""

    data: np.ndarray
    kind: str
    shape: tuple[int, ...]
    heads: int | None
    file: tensors.MappedFile

    @property
    def array(self) -> np.ndarray:
        """As the leaves' table has it; codes as the float32 that they stand for."""
        own = blocks.values_of(self.data, self.kind, self.shape)
        return own if self.heads is None else architectures.turned_back(own, self.heads)

    def copy_into(self, out: np.ndarray, view: np.ndarray) -> None:
        """See `tensors.Tensor.copy_into`."""
        with np.errstate(over="raise"):
            out[...] = view


def load(
    path: str | pathlib.Path, folder: pathlib.Path, *, dtype: Any = None
) -> tuple[model.Config, Any]:
    """The config and params of a GGUF file that gptjax wrote.

    Args:
      folder: where its config.json, tokenizer.json and the like are put.
      dtype: what every leaf is cast to; None: what the file has, codes as float32, and
        what is float32 for llama.cpp's sake as the model had it.

    Raises:
      UserError: no GGUF file, a broken one, or one of another program; the package
        gguf is missing.
    """
    gguf, path = writing.library(), pathlib.Path(path)
    file = tensors.MappedFile(path)
    if file.read(0, 4) != b"GGUF":
        raise errors.UserError(f"{path}: no GGUF file")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise errors.UserError(
            f"{path}: truncated, or no GGUF file: {reason:.200}"
        ) from error
    _unpack(reader, folder, path)
    config = hf_config.read_config(folder)
    architecture = architectures.of(config, where=str(path))
    found = {}
    for own in reader.tensors:
        kind = own.tensor_type.name
        if blocks.bits_of(kind) is None and kind not in ("F32", "F16", "BF16"):
            raise errors.UserError(
                f"{path}: {own.name} is of ggml's kind {kind}; gptjax reads what it "
                "writes"
            )
        shape = tuple(int(size) for size in reversed(own.shape))
        heads = architecture.heads_turned(own.name, config)
        found[own.name] = _Stored(own.data, kind, shape, heads, file)
    found.pop(architectures.ROPE_FACTORS, None)
    leaves = names.leaves_by(config, architecture.rules)
    odd = sorted(found.keys() ^ {name for leaf in leaves for name in leaf.names})
    if odd:
        problem = "is no tensor of this model" if odd[0] in found else "is missing"
        raise errors.UserError(f"{path}: the tensor {odd[0]} {problem}")
    stated = hf_config.read_json(folder / hf_config.FILE)["dtype"]
    if dtype is None and {own.kind for own in found.values()} <= {
        "F32",
        blocks.kind_of(stated),
    }:
        dtype = stated
    return config, importing.placed(config, leaves, found, shardings=None, dtype=dtype)


def _unpack(reader: Any, folder: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the texts that a file holds of its model folder."""
    keys = {
        key: key.removeprefix(writing.KEPT)
        for key in map(writing.KEPT.__add__, writing.FILES)
    }
    keys[_TOKENIZER] = "tokenizer.json"
    if reader.get_field(writing.KEPT + hf_config.FILE) is None:
        raise errors.UserError(
            f"{path}: another program has written it; gptjax reads the GGUF files that "
            "it writes itself"
        )
    for key, name in keys.items():
        field = reader.get_field(key)
        if field is not None:
            text = field.contents()
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
