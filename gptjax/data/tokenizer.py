"""Any fast Hugging Face tokenizer: loaded when needed, and checked against a model."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tokenizers

from gptjax import errors, files
from gptjax.data import storage

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DESCRIPTIONS = {"tokenizer.json", "tokenizer_config.json", "config.json"}
"""The files from which AutoTokenizer learns which class of tokenizer to make."""
_LIBRARIES = ("tokenizers", "transformers")
_PARTS = {".json", ".jinja", ".model", ".txt"}
"""Suffixes of all files that may say how a tokenizer works."""


class Facts(NamedTuple):
    """What can be asked of a tokenizer without loading it."""

    digest: str
    """Of all that decides which ids it gives."""
    eos_id: int | None
    """Its end-of-text token."""
    pad_id: int | None
    """Its padding token."""
    last_token: str
    """The one with the largest id."""
    last_id: int


class Tokenizer:
    """A fast tokenizer, loaded when it is first used.

    That imports transformers, and torch with it where torch is installed: seconds that
    a run spares whose texts are tokenized already, for `facts` are kept with them.
    """

    def __init__(self, name_or_folder: str | pathlib.Path):
        """`name_or_folder` is that of `load_tokenizer`."""
        self.name = str(name_or_folder)

    @classmethod
    def of(cls, loaded: Any) -> "Tokenizer":
        """One that is loaded already."""
        made = cls(loaded.name_or_path)
        made.loaded = loaded
        return made

    @functools.cached_property
    def loaded(self) -> Any:
        """Hugging Face's object; raises as `load_tokenizer` does."""
        return load_tokenizer(self.name)

    @functools.cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """The Rust tokenizer, without the truncation and padding of its file."""
        copy = tokenizers.Tokenizer.from_str(self.loaded.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    def facts(self, cache: storage.Path) -> Facts:
        """Its facts, from a file in `cache` or put there; a store keeps none."""
        known = None
        if "loaded" not in self.__dict__ and isinstance(cache, pathlib.Path):
            known = self._known(cache / "tokenizers")
        if known is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                return Facts(**json.loads(known.read_text(encoding="utf-8")))
        vocab = self.backend.get_vocab()
        last = max(vocab, key=vocab.get)
        digest = hashlib.sha256(self.backend.to_str().encode()).hexdigest()
        found = Facts(
            digest=digest,
            eos_id=self.loaded.eos_token_id,
            pad_id=self.loaded.pad_token_id,
            last_token=last,
            last_id=vocab[last],
        )
        if known is not None:
            # It only saves time; whoever cannot write tokens there will be told.
            with contextlib.suppress(OSError):
                files.write_json(known, found._asdict())
        return found

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files that `load_tokenizer` reads, and transformers too."""
        self.loaded.save_pretrained(folder)

    def special_ids(self) -> dict[str, int | None]:
        """Its special tokens, by their names in a model's config.json."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(self.loaded, name) for name in names}

    def opened(self, text: str) -> list[int]:
        """The tokens of a text that is to be gone on with.

        What the tokenizer puts before a text is there (<s>, [CLS]), and what it puts
        after one is not (</s>, [SEP]): this one has no end yet.
        """
        found = self.backend.encode(text)
        added = found.special_tokens_mask
        length = len(added)
        while length and added[length - 1]:
            length -= 1
        # Of an empty text there is nothing but what is put around it.
        return found.ids[:length] or found.ids[:1]

    def continuation(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """What new tokens add to the text of a prompt.

        By themselves they would lose the space before their first word in tokenizers
        that take it for the beginning of a text (SentencePiece's, GPT-1's).
        """
        before, whole = (self.loaded.decode(ids) for ids in (prompt, [*prompt, *new]))
        if whole.startswith(before):
            return whole[len(before) :]
        # A prompt that ends within a character.
        return self.loaded.decode(new)

    def _known(self, folder: pathlib.Path) -> pathlib.Path | None:
        """Where facts are kept, by all that loading reads; None for a hub's."""
        source = pathlib.Path(self.name).expanduser()
        if not source.is_dir():
            return None
        read = [importlib.metadata.version(name) for name in _LIBRARIES]
        for file in sorted(source.iterdir()):
            if file.suffix in _PARTS and file.is_file():
                read += file.name, hashlib.sha256(file.read_bytes()).hexdigest()
        return folder / f"{hashlib.sha256(json.dumps(read).encode()).hexdigest()}.json"


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


def check_tokenizer(facts: Facts, vocab_size: int, name: str) -> None:
    """Raises a `UserError` unless every token's id is inside a model's vocabulary.

    Args:
      vocab_size: of the model; more than the tokenizer has is fine (padding).
      name: what the message calls the tokenizer.
    """
    if facts.last_id >= vocab_size:
        raise errors.UserError(
            f"{name}: the tokenizer does not fit the model: its token "
            f"{facts.last_token!r} has id {facts.last_id}, the model's vocabulary ends "
            f"at {vocab_size - 1}"
        )


def check_same_tokenizer(folders: Sequence[pathlib.Path], cache: storage.Path) -> None:
    """Raises a `UserError` unless models' tokenizers give texts the same tokens.

    Args:
      cache: where facts are kept.
    """
    first, *others = folders
    wanted = Tokenizer(first).facts(cache).digest
    for folder in others:
        if Tokenizer(folder).facts(cache).digest != wanted:
            raise errors.UserError(
                f"{folder}: its tokenizer is not that of {first}; their weights are of "
                "other tokens"
            )


def padding_id(facts: Facts, name: str) -> int:
    """The token that fills texts up: for padding, or else for the end of a text.

    Raises:
      UserError: the tokenizer has neither.
    """
    for id_ in (facts.pad_id, facts.eos_id):
        if id_ is not None:
            return id_
    raise errors.UserError(
        f"{name}: the tokenizer has neither a padding nor an end-of-text token "
        "(pad_token, eos_token in tokenizer_config.json) to fill texts up with"
    )
