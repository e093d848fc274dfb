"""Cuts a long text where no token of GPT-2's tokenizer can reach across."""

import json
import re
from collections.abc import Callable, Iterable, Iterator

import tokenizers

PIECE_CHARACTERS = 1 << 17
"""A text whole takes some 140 bytes of memory a character to tokenize."""

# GPT-2 splits a text by the regex
#   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# before it looks for tokens. No alternative takes a newline after anything but
# white space, and none looks back: between a visible character and a newline the
# text may be cut, and each side splits as it did.
_PLACE = re.compile(r"(?<=[!-~])\n")


def cutter(
    tokenizer: tokenizers.Tokenizer,
) -> Callable[[Iterable[str]], Iterator[str]]:
    """A function that cuts a text so that its pieces' ids join to the whole's.

    It takes the text in parts, of any size, and holds little more than one of them.
    Only texts for tokenizers that are known to split as GPT-2 are cut; all others
    come back whole.
    """
    if _splits_as_gpt2(tokenizer):
        return _pieces
    return lambda parts: iter(("".join(parts),))


def _splits_as_gpt2(tokenizer: tokenizers.Tokenizer) -> bool:
    spec = json.loads(tokenizer.to_str())
    split = spec["pre_tokenizer"] or {}
    return (
        spec["normalizer"] is None
        and split.get("type") == "ByteLevel"
        and not split["add_prefix_space"]
        and split["use_regex"]
        and spec["model"]["type"] == "BPE"
        and not spec["model"].get("dropout")
        # Such tokens would reach for white space around them.
        and not any(
            token["lstrip"]
            or token["rstrip"]
            or token["single_word"]
            or "\n" in token["content"]
            for token in spec["added_tokens"]
        )
    )


def _pieces(parts: Iterable[str]) -> Iterator[str]:
    rest = ""
    for part in parts:
        text, begin = rest + part, 0
        while place := _PLACE.search(text, begin + PIECE_CHARACTERS):
            yield text[begin : place.start()]
            begin = place.start()
        rest = text[begin:]
    yield rest
