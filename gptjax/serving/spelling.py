"""Tokens by themselves, as those read them who ask for log-probabilities."""

import importlib
import json
from typing import Any, NamedTuple

from gptjax import data

_UNKNOWN = "\ufffd"
"""What decoding makes of a part of a character."""


class Spelled(NamedTuple):
    """A token."""

    text: str
    """Of a part of a character, as the vocabulary has it."""
    bytes: list[int] | None
    """Of its UTF-8; None: unknown."""


class Spelling:
    """A tokenizer's tokens as they stand in the midst of a text; each is found once."""

    def __init__(self, tokenizer: Any):
        """`tokenizer` is Hugging Face's."""
        self._tokenizer = data.Tokenizer.of(tokenizer)
        # Behind a letter: by itself a token would lose its space in some tokenizers.
        self._before = self._tokenizer.opened("a")[-1:]
        self._found: dict[int, Spelled] = {}
        decoder = json.dumps(json.loads(self._tokenizer.backend.to_str())["decoder"])
        self._falls_back = '"ByteFallback"' in decoder
        self._bytes: dict[str, int] = {}
        if '"ByteLevel"' in decoder:
            # transformers has a function of that name, too, which hides the module.
            slow = importlib.import_module("transformers.convert_slow_tokenizer")
            alphabet = slow.bytes_to_unicode()
            self._bytes = {letter: byte for byte, letter in alphabet.items()}

    def __call__(self, id_: int) -> Spelled:
        """A token's."""
        if id_ not in self._found:
            self._found[id_] = self._find(id_)
        return self._found[id_]

    def _find(self, id_: int) -> Spelled:
        text = self._tokenizer.continuation(self._before, [id_])
        if _UNKNOWN not in text:
            return Spelled(text, list(text.encode()))
        name = self._tokenizer.loaded.convert_ids_to_tokens(id_)
        if name is None:
            return Spelled(text, None)
        if self._falls_back and name.startswith("<0x"):
            return Spelled(name, [int(name[3:-1], 16)])
        known = [self._bytes.get(each) for each in name]
        return Spelled(name, None if None in known else known)
