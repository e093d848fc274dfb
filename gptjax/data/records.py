"""Instructions as they stand in a file: prompts with completions, and chats.

A line of a .jsonl file is one of

    {"prompt": "Who wrote Emma?\\n", "completion": "Jane Austen."}
    {"messages": [{"role": "user", "content": "Who wrote Emma?"},
                  {"role": "assistant", "content": "Jane Austen."}]}

either with a `"style": "shakespeare"` if it has one; other keys are left alone.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from gptjax import config, errors
from gptjax.config import data as config_data
from gptjax.data import corpus, files, sources, storage

ROLES = ("system", "user", "assistant")
_KEYS = ("prompt", "completion", "messages", "style")
# So near to a known key that it is meant: `prompts`, but not `prompt_id`.
_NEAR = 0.85


@dataclasses.dataclass(frozen=True)
class Record:
    """One instruction and its answer, or one chat."""

    place: str
    """File and line, for messages."""
    prompt: str = ""
    completion: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    """Turns with `role` and `content`; none: it is a prompt with its completion."""


def code(style: str) -> str:
    """The control code that asks for a style: a line before all else.

    It is plain text, which every tokenizer knows, so that a model needs no new tokens;
    and a line of its own, since GPT-2's tokenizer never joins a line's end with the
    word after it. Keskar et al., "CTRL: A Conditional Transformer Language Model for
    Controllable Generation", 2019, arXiv:1909.05858.

    Raises:
      UserError: a name that is not words alone.
    """
    check_style(style, "style")
    return f"<|style: {style}|>\n"


def check_style(style: Any, place: str) -> None:
    """Raises a `UserError` unless a style's name is words alone."""
    try:
        config_data.check_style(style)
    except ValueError as error:
        raise errors.UserError(f"{place}: {error}") from error


def styled(
    messages: tuple[Mapping[str, str], ...], style: str | None
) -> tuple[Mapping[str, str], ...]:
    """A chat with a style's code before what its first turn says."""
    if style is None:
        return messages
    first = {**messages[0], "content": code(style) + messages[0]["content"]}
    return (first, *messages[1:])


def read_records(source: config.Source) -> Iterator[Record]:
    """The records of a .jsonl file, or of all below a folder, with their styles' codes.

    Raises:
      UserError: one line naming file and line: a missing key, an empty text, a turn
        without content, a chat in which the assistant answers nobody ...
    """
    path = storage.path(source.path)
    if not path.exists():
        raise sources.not_there(path)
    by_name = bool(files.find(path, "jsonl"))
    if source.format not in (None, "jsonl") or not (
        by_name or (source.format == "jsonl" and not path.is_dir())
    ):
        raise errors.UserError(
            f"{path}: instructions stand in .jsonl files (or one by another name, with "
            "`format: jsonl`)"
        )
    is_empty = True
    for value, place, _ in sources.read_objects(path):
        yield _record(value, place, source.style)
        is_empty = False
    if is_empty:
        raise errors.UserError(f"{path}: holds no instruction")


def _record(value: dict[str, Any], place: str, style: str | None) -> Record:
    for key in value:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=_NEAR)
        if near and key not in _KEYS:
            raise errors.UserError(f"{place}: key {key!r}; did you mean {near[0]!r}?")
    if value.get("style") is not None:
        style = value["style"]
        check_style(style, place)
    if "messages" in value:
        for key in ("prompt", "completion"):
            if key in value:
                raise errors.UserError(
                    f"{place}: both messages and {key}; a line is a chat or a prompt "
                    "with its completion"
                )
        return Record(
            place, messages=styled(check_chat(value["messages"], place), style)
        )
    for key in ("prompt", "completion"):
        if key not in value:
            raise errors.UserError(
                f"{place}: no key {key!r}; a line has prompt and completion, or "
                f"messages; {corpus.near_miss(key, value)}"
            )
    prompt = _text(value["prompt"], place, "prompt", may_be_empty=style is not None)
    completion = _text(value["completion"], place, "completion")
    before = "" if style is None else code(style)
    return Record(place, prompt=before + prompt, completion=completion)


def check_chat(
    messages: Any, place: str, *, is_answered: bool = True
) -> tuple[Mapping[str, str], ...]:
    """The turns of a chat, if they are some.

    Args:
      is_answered: whether the assistant must have said something.

    Raises:
      UserError: naming the place and the turn.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise errors.UserError(
            f"{place}: messages: a chat is a list of turns with role and content"
        )
    turns = []
    for number, turn in enumerate(messages, 1):
        where = f"{place}: turn {number}"
        if not isinstance(turn, Mapping):
            raise errors.UserError(
                f"{where}: holds {type(turn).__name__}; a turn is an object with role "
                "and content"
            )
        for key in ("role", "content"):
            if key not in turn:
                raise errors.UserError(
                    f"{where}: no key {key!r}; {corpus.near_miss(key, turn)}"
                )
        role = turn["role"]
        if role not in ROLES:
            raise errors.UserError(
                f"{where}: role {role!r}; it may be {', '.join(ROLES)}"
            )
        turns.append(
            {"role": role, "content": _text(turn["content"], where, "content")}
        )
    if turns[0]["role"] == "assistant":
        raise errors.UserError(
            f"{place}: turn 1: is the assistant's, who has nothing to answer yet"
        )
    if is_answered and all(turn["role"] != "assistant" for turn in turns):
        raise errors.UserError(
            f"{place}: no turn is the assistant's; there is nothing to learn"
        )
    return tuple(turns)


def _text(value: Any, place: str, key: str, *, may_be_empty: bool = False) -> str:
    """`value` if it is text with something in it."""
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise errors.UserError(f"{place}: {key} holds no text but {kind}")
    corpus.utf8_bytes(value, f"{place}: {key}")
    if not value.strip() and not may_be_empty:
        raise errors.UserError(f"{place}: {key} is an empty text")
    return value
