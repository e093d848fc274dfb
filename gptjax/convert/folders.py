"""Model folders: what lies in them beside the weights, and how one is written.

A folder appears whole or not at all: it is written beside its place under another
name and then renamed.
"""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Container, Iterator
from typing import Any, Protocol

import jax

from gptjax import errors, grids, model, sharding
from gptjax.convert import compressed, hf_config

GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
    "tokenizer.model",
    "vocab.txt",
)
MODEL = (hf_config.FILE, hf_config.PARAMS, GENERATION, *TOKENIZER)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


class Tokenizer(Protocol):
    """What a folder is written with of a tokenizer that its model did not come with."""

    def save(self, folder: pathlib.Path) -> None:
        """Writes its files."""
        ...

    def special_ids(self) -> dict[str, int | None]:
        """Its token ids by their names in config.json, such as `eos_token_id`."""
        ...


@contextlib.contextmanager
def replacing(
    folder: pathlib.Path,
    *,
    source: pathlib.Path | None,
    ours: Container[str] = MODEL,
) -> Iterator[pathlib.Path]:
    """A folder to write into, which takes the place of `folder` at the end.

    All processes of a run take part; the first one makes and renames folders.

    Args:
      source: where the model came from, which must not be overwritten.
      ours: names of files that may be replaced, beside those of weights.

    Raises:
      UserError: `folder` is the source, or holds something that gptjax does not
        write, or cannot be written.
    """
    folder = pathlib.Path(folder).absolute()
    staging = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    is_first = jax.process_index() == 0
    try:
        if is_first:
            check_replaceable(folder, source=source, ours=ours)
            folder.parent.mkdir(parents=True, exist_ok=True)
            for leftover in (staging, replaced):
                shutil.rmtree(leftover, ignore_errors=True)
            staging.mkdir()
        sharding.sync(f"{folder} begun")
        yield staging
        sharding.sync(f"{folder} written")
        if is_first:
            if folder.exists():
                folder.rename(replaced)
            staging.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
        sharding.sync(f"{folder} in place")
    except OSError as error:
        reason = error.strerror or error
        raise errors.UserError(f"{folder}: cannot be written: {reason}") from error
    finally:
        if is_first:
            shutil.rmtree(staging, ignore_errors=True)


def check_replaceable(
    folder: pathlib.Path,
    *,
    source: pathlib.Path | None,
    ours: Container[str] = MODEL,
) -> None:
    """Raises a `UserError` if `replacing` the folder would lose something.

    For what takes long before it writes.
    """
    if source is not None and folder.resolve() == pathlib.Path(source).resolve():
        raise errors.UserError(f"{folder}: is the source too; write to another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise errors.UserError(f"{folder}: is a file; a model is written to a folder")
    for entry in sorted(folder.iterdir()):
        if entry.name not in ours and not _WEIGHTS.fullmatch(entry.name):
            raise errors.UserError(
                f"{folder}: holds {entry.name}, which would be lost; write to a new "
                "folder"
            )


def write_sidecars(
    folder: pathlib.Path,
    config: model.Config,
    *,
    dtype: Any,
    like: pathlib.Path | None,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
    on_grid: grids.OnGrid | None = None,
    is_native: bool = False,
) -> None:
    """config.json, generation_config.json and the tokenizer's files, if there are any.

    Args:
      dtype: of the weights.
      like: the model folder whose token ids, labels and tokenizer are kept.
      tokenizer: what is written with its token ids in place of those; None: those.
      chat_template: as for `exporting.save`.
      on_grid: as for `exporting.save`.
      is_native: whether it is a gptjax folder.
    """
    source = {}
    if like is not None:
        like = pathlib.Path(like)
        if not (like / hf_config.FILE).is_file():
            raise errors.UserError(f"{like}: holds no {hf_config.FILE} to go by")
        source = hf_config.read_json(like / hf_config.FILE)
    ids = {} if tokenizer is None else tokenizer.special_ids()
    values = hf_config.to_values(
        config, dtype=dtype, like={**source, **ids}, is_native=is_native
    )
    if on_grid is not None:
        values |= compressed.settings_of(config, on_grid.grid)
    hf_config.write_json(folder / hf_config.FILE, values)
    if like is not None and (like / GENERATION).is_file():
        if ids:
            generation = {**hf_config.read_json(like / GENERATION), **ids}
            hf_config.write_json(folder / GENERATION, generation)
        else:
            shutil.copyfile(like / GENERATION, folder / GENERATION)
    else:
        kept = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")
        generation = {key: values[key] for key in kept if values.get(key) is not None}
        generation["_from_model_config"] = True
        hf_config.write_json(folder / GENERATION, generation)
    if tokenizer is not None:
        tokenizer.save(folder)
    for name in TOKENIZER if tokenizer is None and like is not None else ():
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    if chat_template is not None:
        (folder / TEMPLATE).write_text(chat_template, encoding="utf-8", newline="\n")
