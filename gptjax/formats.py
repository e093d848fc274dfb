"""Models in the formats of other programs, with their tokenizers."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from gptjax import convert, data, generation, grids, model, models
from gptjax.convert import llama_cpp, stablehlo


@contextlib.contextmanager
def opened(
    source: str | pathlib.Path, *, dtype: Any = None
) -> Iterator[tuple[pathlib.Path, model.Config, Any]]:
    """The folder, config and params of a MODEL or of a GGUF file that gptjax wrote.

    The folder of a file is a temporary one, with its tokenizer and no weights.

    Args:
      dtype: as for `convert.load`.
    """
    if pathlib.Path(source).suffix != llama_cpp.SUFFIX:
        folder = convert.resolve(source)
        yield folder, *convert.load(folder, dtype=dtype)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        yield folder, *llama_cpp.load(source, folder, dtype=dtype)


def save_gguf(
    loaded: models.Model,
    path: str | pathlib.Path,
    *,
    weights: str = "keep",
    on_grid: grids.OnGrid | None = None,
) -> llama_cpp.Written:
    """Writes a GGUF file, which llama.cpp runs; see `llama_cpp.save`.

    Args:
      weights: what matrices are stored as, one of `llama_cpp.WEIGHTS`.
      on_grid: which of them are codes already, as `convert.load_grid` or a `Quantized`
        says; None: none.
    """
    return llama_cpp.save(
        path,
        loaded.config,
        loaded.params,
        weights=weights,
        vocabulary=_vocabulary(loaded.tokenizer),
        like=loaded.folder,
        on_grid=on_grid,
    )


def save_stablehlo(
    loaded: models.Model,
    folder: str | pathlib.Path,
    *,
    on_grid: grids.OnGrid | None = None,
) -> int:
    """Writes a folder of programs that run without gptjax; see `stablehlo.save`.

    Args:
      on_grid: which kernels are stored as codes; as for `save_gguf`.
    """
    said = generation.read_file(loaded.folder)
    ends = said.get("eos_token_id", loaded.tokenizer.eos_token_id)
    return stablehlo.save(
        folder,
        loaded.config,
        loaded.params,
        tokenizer_json=data.Tokenizer.of(loaded.tokenizer).backend.to_str(),
        eos_token_ids=ends if isinstance(ends, list) else [ends] * (ends is not None),
        like=loaded.folder,
        on_grid=on_grid,
    )


def _vocabulary(loaded: Any) -> llama_cpp.Vocabulary:
    """A Hugging Face tokenizer as its parts."""
    backend = data.Tokenizer.of(loaded).backend
    ids = {
        "bos": loaded.bos_token_id,
        "eos": loaded.eos_token_id,
        "unknown": loaded.unk_token_id,
        "padding": loaded.pad_token_id,
    }
    ids = {name: number for name, number in ids.items() if number is not None}
    around = backend.encode("a")
    ends = {"bos": around.ids[0], "eos": around.ids[-1]}
    puts = {
        "bos": around.special_tokens_mask[0],
        "eos": around.special_tokens_mask[-1],
    }
    template = getattr(loaded, "chat_template", None)
    return llama_cpp.Vocabulary(
        json=backend.to_str(),
        special_ids=ids,
        adds={name: bool(puts[name]) and ends[name] == ids.get(name) for name in ends},
        chat_template=template if isinstance(template, str) else None,
    )
