"""Chats as a template writes them, in parts that are learnt and parts that are not."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gptjax import assets, errors
from gptjax.data.tokenizer import Tokenizer


class Part(NamedTuple):
    """A stretch of an example, which is tokenized by itself."""

    text: str
    is_learnt: bool


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template in Jinja, rendered by transformers, in its sandbox."""

    text: str
    name: str
    """What messages call it."""
    tokenizer: Any
    """Hugging Face's, whose special tokens the template may write."""

    def write(
        self,
        messages: Sequence[Mapping[str, str]],
        place: str,
        *,
        asks: bool,
        **more: Any,
    ) -> str:
        """A chat as text.

        Args:
          place: of the chat, for messages.
          asks: whether it ends with what introduces an answer of the assistant.
          more: what else transformers and the template take.

        Raises:
          UserError: the template is none, or refuses the chat.
        """
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                [dict(turn) for turn in messages],
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=asks,
                **more,
            )
        except jinja2.TemplateSyntaxError as error:
            raise errors.UserError(
                f"{self.name}, line {error.lineno}: not a template: {error.message}"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise errors.UserError(
                f"{place}: {self.name} refuses the chat: {reason}"
            ) from error

    def parts(
        self, messages: Sequence[Mapping[str, str]], place: str, *, asks: bool = False
    ) -> list[Part]:
        """What of a chat is learnt: the assistant's turns, each with its end.

        Each is what comes on top when the turn is written, too, after the chat before
        it with its introduction of an answer; for that the longer text must begin with
        the shorter one. White space behind an end-of-text token is not learnt, nor what
        follows the last answer.

        Args:
          asks: whether the rest of the chat is wanted, too, and what introduces an
            answer to it.

        Raises:
          UserError: the template refuses the chat, or writes earlier turns otherwise
            when others follow.
        """
        found, so_far = [], ""
        for number, turn in enumerate(messages):
            if turn["role"] != "assistant":
                continue
            asked = self.write(messages[:number], place, asks=True)
            answered = self.write(messages[: number + 1], place, asks=False)
            if not (asked.startswith(so_far) and answered.startswith(asked)):
                raise self._rewritten(place, number)
            answer = answered[len(asked) :]
            end = self.tokenizer.eos_token
            place_of_end = answer.rfind(end) if end else -1
            if place_of_end >= 0:
                answer = answer[: place_of_end + len(end)]
            if not answer.strip():
                raise errors.UserError(
                    f"{place}: turn {number + 1}: {self.name} writes nothing of it"
                )
            found += Part(asked[len(so_far) :], False), Part(answer, True)
            so_far = asked + answer
        if asks:
            asked = self.write(messages, place, asks=True)
            if not asked.startswith(so_far):
                raise self._rewritten(place, len(messages))
            found.append(Part(asked[len(so_far) :], False))
        return found

    def _rewritten(self, place: str, number: int) -> Exception:
        return errors.UserError(
            f"{place}: turn {number + 1}: {self.name} writes the chat before it "
            "otherwise once it is there, so that what is to be learnt cannot be told; "
            "give another task.chat_template"
        )


def template_of(tokenizer: Tokenizer, wanted: str | None) -> tuple[Template, bool]:
    """The template that a run writes its chats with.

    Args:
      wanted: a file; None: the tokenizer's own, or gptjax's where it has none.

    Returns:
      The template, and whether the tokenizer's files lack it.

    Raises:
      UserError: no such file, or no template in it.
    """
    loaded = tokenizer.loaded
    if wanted is None and loaded.chat_template is not None:
        return own_template(tokenizer), False
    path = assets.chat_template() if wanted is None else pathlib.Path(wanted)
    name = "gptjax's chat template" if wanted is None else wanted
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise errors.UserError(
            f"task.chat_template: {wanted}: cannot be read: {reason}"
        ) from error
    if not re.search(r"\{[{%]", text):
        raise errors.UserError(f"task.chat_template: {wanted}: holds no Jinja template")
    return Template(text, name, loaded), True


def own_template(tokenizer: Tokenizer) -> Template:
    """The template of a tokenizer.

    Raises:
      UserError: it has none.
    """
    loaded = tokenizer.loaded
    try:
        text = loaded.get_chat_template()
    except ValueError as error:
        raise errors.UserError(
            f"{tokenizer.name}: its tokenizer has no chat template "
            "(chat_template.jinja); a run of task.kind instructions that reads chats "
            "exports one"
        ) from error
    return Template(text, f"the chat template of {tokenizer.name}", loaded)
