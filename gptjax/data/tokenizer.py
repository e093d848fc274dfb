"""Loads any Hugging Face tokenizer, and checks that it fits a model."""

import os
import pathlib
import re
from typing import Any

from gptjax import errors

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DESCRIPTIONS = {"tokenizer.json", "tokenizer_config.json", "config.json"}
"""The files from which AutoTokenizer learns which class of tokenizer to make."""


def load_tokenizer(name_or_folder: str | pathlib.Path) -> Any:
    """The fast tokenizer of a local folder or of a hub name.

    A folder holds tokenizer.json, or, as old checkpoints do, vocab.json and
    merges.txt alone.

    Raises:
      UserError: nothing there, files that cannot be read, no fast version.
    """
    # Without torch, transformers announces on import that models will not work.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    name = str(name_or_folder)
    folder = pathlib.Path(name).expanduser()
    is_local = folder.is_dir()
    files = {child.name for child in folder.iterdir()} if is_local else set()
    if not is_local and not _HUB_NAME.fullmatch(name):
        raise errors.UserError(f"{name}: there is no such tokenizer folder")
    try:
        if {"vocab.json", "merges.txt"} <= files and not files & _DESCRIPTIONS:
            # Given file names as vocab_file= and merges_file=, transformers 5 makes
            # an empty tokenizer in silence.
            tokenizer = transformers.GPT2TokenizerFast(
                vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
            )
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder if is_local else name
            )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise errors.UserError(f"{name}: no tokenizer loads: {reason}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise errors.UserError(
            f"{name}: its tokenizer has no fast version (tokenizer.json)"
        )
    # So does AutoTokenizer where config.json is there but no tokenizer's file.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise errors.UserError(
            f"{name}: holds no tokenizer: neither tokenizer.json nor vocab.json with "
            "merges.txt"
        )
    return tokenizer


def check_tokenizer(tokenizer: Any, vocab_size: int, name: str) -> None:
    """Raises a `UserError` unless every token's id is inside a model's vocabulary.

    Args:
      tokenizer: a fast tokenizer.
      vocab_size: of the model; more than the tokenizer has is fine (padding).
      name: what the message calls the tokenizer.
    """
    vocab = tokenizer.get_vocab()
    token = max(vocab, key=vocab.get)
    if vocab[token] >= vocab_size:
        raise errors.UserError(
            f"{name}: the tokenizer does not fit the model: its token {token!r} has id "
            f"{vocab[token]}, the model's vocabulary ends at {vocab_size - 1}"
        )
