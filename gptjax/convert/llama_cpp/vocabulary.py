"""A tokenizer as llama.cpp reads it: byte-level BPE, or SentencePiece's BPE.

llama.cpp has no regular expressions of its own to split a text by: it knows those of
some tokenizers by a name (`tokenizer.ggml.pre`).
"""

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax import errors

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What stands after the question mark: of other scripts' points and commas.
_BLOOM = r" ?[^(\s|[.,!?" "\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c" r"])]+"
_LETTERS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"

# How a text is split before it is merged -> what llama.cpp calls that.
PRE = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (
        ("Split", _CONTRACTIONS + _LETTERS + r"|\p{N}{1,3}" + _REST),
        ("ByteLevel", False),
    ): "llama-bpe",
    (
        ("Split", _CONTRACTIONS + _LETTERS + r"|\p{N}" + _REST),
        ("ByteLevel", False),
    ): "qwen2",
    (("Split", _BLOOM), ("ByteLevel", False)): "bloom",
}
# It takes whole words of the vocabulary as they are, by that name alone.
_IGNORES_MERGES = {"llama-bpe"}
_SPACE = "▁"


class Kind(enum.IntEnum):
    """llama.cpp's kinds of tokens (`llama_token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer.

    Attributes:
      json: the text of its tokenizer.json.
      special_ids: `bos`, `eos`, `unknown`, `padding` -> a token's id, where it has one.
      adds: `bos`, `eos` -> whether that is put around a text.
      chat_template: Jinja, where it has one.
    """

    json: str
    special_ids: Mapping[str, int]
    adds: Mapping[str, bool]
    chat_template: str | None = None

    def fields(self, size: int, *, where: str) -> dict[str, Any]:
        """What a GGUF file says of it, by its keys.

        Args:
          size: of the model's vocabulary; filled up with tokens that no text has.
          where: what error messages begin with.

        Raises:
          UserError: a kind of tokenizer, or a part of one, that llama.cpp has not.
        """
        values = json.loads(self.json)
        own = values["model"]
        if own.get("type") != "BPE" or own.get("end_of_word_suffix"):
            raise errors.UserError(
                f"{where}: its tokenizer is a {_title(own)}; gptjax writes byte-level "
                "BPE and SentencePiece's BPE to GGUF"
            )
        tokens, kinds = _tokens(values, size)
        merges = [
            each if isinstance(each, str) else " ".join(each) for each in own["merges"]
        ]
        fields: dict[str, Any] = {"tokens": tokens, "token_type": kinds}
        if own.get("byte_fallback"):
            fields |= _sentence_piece(values, tokens, kinds, merges, where)
        else:
            fields |= {"model": "gpt2", "pre": _pre(values, where), "merges": merges}
        fields |= {
            f"{name}_token_id": number for name, number in self.special_ids.items()
        }
        fields |= {f"add_{name}_token": is_so for name, is_so in self.adds.items()}
        fields = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
        if self.chat_template is not None:
            fields["tokenizer.chat_template"] = self.chat_template
        return {**fields, "tokenizer.huggingface.json": self.json}


def _title(own: Mapping[str, Any]) -> str:
    kind = own.get("type")
    return "BPE of words that end in a suffix" if kind == "BPE" else str(kind)


def _tokens(values: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every token by its id, and its kind."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [int(Kind.UNUSED)] * size
    for token, number in values["model"]["vocab"].items():
        tokens[number], kinds[number] = token, int(Kind.NORMAL)
    for added in values["added_tokens"]:
        number = added["id"]
        tokens[number] = added["content"]
        kinds[number] = int(Kind.CONTROL if added["special"] else Kind.USER_DEFINED)
    return tokens, kinds


def _pre(values: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of how a text is split."""
    normalizer = (values.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise errors.UserError(
            f"{where}: its tokenizer normalizes texts by {normalizer}, which llama.cpp "
            "does not"
        )
    top = values.get("pre_tokenizer") or {}
    steps = [top] if top.get("type") != "Sequence" else top["pretokenizers"]
    found = tuple(map(_step, steps))
    name = PRE.get(found)
    if name is None:
        raise errors.UserError(
            f"{where}: llama.cpp has no name for how its tokenizer splits texts "
            f"({', '.join(map(str, found)) or 'not at all'}); it knows "
            f"{', '.join(PRE.values())}"
        )
    ignores = bool(values["model"].get("ignore_merges"))
    if ignores != (name in _IGNORES_MERGES):
        raise errors.UserError(
            f"{where}: its tokenizer splits texts as {name} does, but ignore_merges is "
            f"{ignores}, and llama.cpp knows no such one"
        )
    return name


def _step(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """What one step of splitting does, as `PRE` says it."""
    kind = values.get("type")
    if kind == "ByteLevel" and not values.get("add_prefix_space"):
        return kind, values.get("use_regex", True)
    if kind == "Digits":
        return kind, values.get("individual_digits", False)
    plain = ("Isolated", False)
    if kind == "Split" and (values["behavior"], values["invert"]) == plain:
        return kind, values["pattern"].get("Regex")
    return kind, "otherwise"


def _sentence_piece(
    values: Mapping[str, Any],
    tokens: Sequence[str],
    kinds: list[int],
    merges: Sequence[str],
    where: str,
) -> dict[str, Any]:
    """Scores in place of merges: llama.cpp joins the pair of the highest one first.

    Changes kinds: those of bytes and of the unknown token are their own.
    """
    joined = _joined(merges, values["model"]["vocab"], where)
    scores = [-float(joined.get(token, len(merges))) for token in tokens]
    for number, token in enumerate(tokens):
        if token == values["model"].get("unk_token"):
            kinds[number] = int(Kind.UNKNOWN)
        elif len(token) == 6 and token.startswith("<0x"):
            kinds[number] = int(Kind.BYTE)
    return {
        "model": "llama",
        "pre": "default",
        "scores": scores,
        "add_space_prefix": _puts_space_first(values, where),
    }


def _joined(
    merges: Sequence[str], vocab: Mapping[str, int], where: str
) -> dict[str, int]:
    """The tokens that are joined of others -> when; SentencePiece knows no pairs.

    Raises:
      UserError: a token is not joined of all pairs that make it, or of some of them
        later than another token, which scores cannot say.
    """
    joined: dict[str, int] = {}
    last = None
    for rank, merge in enumerate(merges):
        token = merge.replace(" ", "")
        if joined.setdefault(token, rank) != rank and token != last:
            break
        last = token
    else:
        pairs = set(merges)
        missing = (
            pair
            for token in joined
            for cut in range(1, len(token))
            if {token[:cut], token[cut:]} <= vocab.keys()
            and (pair := f"{token[:cut]} {token[cut:]}") not in pairs
        )
        token = next(missing, None)
        if token is None:
            return joined
    raise errors.UserError(
        f"{where}: its tokenizer merges as no SentencePiece does ({token!r}), so that "
        "llama.cpp would read texts otherwise"
    )


def _puts_space_first(values: Mapping[str, Any], where: str) -> bool:
    """Whether a text gets a space before it; an error unless spaces are all it changes.

    Either as Llama's old files say it, a normalizer, or as `Metaspace`.
    """
    normalizer, splitter = (
        values.get(name) or {} for name in ("normalizer", "pre_tokenizer")
    )
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepended = {"type": "Prepend", "prepend": _SPACE}
    if not splitter and steps in ([replaced], [prepended, replaced]):
        return len(steps) == 2
    if not steps and splitter.get("type") == "Metaspace":
        scheme = splitter.get("prepend_scheme")
        plain = splitter.get("replacement") == _SPACE and not splitter.get("split")
        if plain and scheme in ("never", "first", "always"):
            return scheme != "never"
    raise errors.UserError(
        f"{where}: its tokenizer changes or splits texts in a way that llama.cpp does "
        "not know of SentencePiece"
    )
