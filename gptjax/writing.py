"""What a model writes after prompts, as text."""

import copy
import operator
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptjax import data, errors, generation

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
"""A text, the turns of a chat, or token ids."""


class Writer:
    """An engine with its tokenizer.

    Attributes:
      engine: what decodes.
      own: the checkpoint's options, by generation_config.json, on top of which a
        call's go.
    """

    def __init__(self, engine: generation.Engine, tokenizer: Any, folder: pathlib.Path):
        """`tokenizer` is Hugging Face's, `folder` the checkpoint's.

        Raises:
          UserError: a generation_config.json that asks for what there is not.
        """
        self.engine, self._tokenizer = engine, data.Tokenizer.of(tokenizer)
        self.own = generation.read_file(folder)
        ends = self.own.get("eos_token_id")
        ends = [ends] if isinstance(ends, int) else ends or []
        # transformers writes GPT-2's end of text, 50256, for smaller vocabularies, too.
        ends = [each for each in ends if each < engine.config.vocab_size]
        self.own["eos_token_id"] = ends or tokenizer.eos_token_id

    def with_draft(self, draft: "Writer") -> "Writer":
        """The same with a smaller model that proposes tokens."""
        made = copy.copy(self)
        made.engine = self.engine.with_draft(draft.engine)
        return made

    def options(
        self, given: Mapping[str, Any], *, keeps_scores: bool = False
    ) -> generation.Options:
        """A call's options on top of the checkpoint's.

        Raises:
          UserError: as `Options.make`; options of drawing where none is drawn, scores
            where only texts are wanted.
        """
        given = {name: value for name, value in given.items() if value is not None}
        own = dict(self.own)
        if "max_length" in given:
            own.pop("max_new_tokens", None)
        made = generation.Options.make({**own, **given})
        if made.output_scores and not keeps_scores:
            raise errors.UserError(
                "output_scores: texts come without; generate_tokens keeps them"
            )
        for name in generation.DRAWING:
            if name in given and not made.do_sample:
                raise errors.UserError(
                    f"{name}: says nothing unless tokens are drawn; give do_sample too"
                )
        return made

    def drawing(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A call's options where tokens are drawn unless it says otherwise.

        So do the commands: then the temperature is 0.8 where neither the call nor the
        checkpoint names one. Beams are searched, as in Python.
        """
        given = dict(given)
        if given.get("num_beams", self.own.get("num_beams") or 1) == 1:
            is_drawn = given.setdefault("do_sample", True)
            if is_drawn and self.own.get("temperature") is None:
                given.setdefault("temperature", 0.8)
        return given

    def encode(
        self, prompts: Sequence[Prompt], *, style: str | None, chat: bool
    ) -> list[list[int]]:
        """The tokens of prompts.

        Raises:
          UserError: naming the prompt that is not Unicode, or no chat, or none at all.
        """
        found = []
        for number, prompt in enumerate(prompts, 1):
            where = f"prompt {number}"
            if isinstance(prompt, str):
                data.utf8_bytes(prompt, where)
            elif (ids := _ids(prompt)) is not None:
                if style is not None or chat:
                    raise errors.UserError(
                        f"{where}: of token ids; style and chat are of texts"
                    )
                found.append(ids)
                continue
            elif not chat:
                raise errors.UserError(
                    f"{where} is {prompt!r:.60}; it takes a text, or token ids, or "
                    "with chat the turns of one"
                )
            if style is not None or chat:
                ids = data.prompt_ids(
                    prompt, self._tokenizer, style=style, is_chat=chat
                )
            else:
                ids = self._tokenizer.opened(prompt)
            found.append(ids)
        return found

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: generation.Options,
        seed: int | Sequence[int],
    ) -> generation.Generated:
        """See `generation.Engine.generate`."""
        find_stop = self._find_stop(options)
        return self.engine.generate(prompts, options, seed=seed, find_stop=find_stop)

    def text(
        self, prompt: Sequence[int], new: Sequence[int], options: generation.Options
    ) -> str:
        """What new tokens add to a prompt's text, without the one that ended them."""
        ends = options.eos_token_id
        kept = [id_ for id_ in new if id_ not in ends]
        return self._tokenizer.continuation(prompt, kept)

    def texts(
        self,
        prompts: Sequence[Sequence[int]],
        made: generation.Generated,
        options: generation.Options,
    ) -> list[str]:
        """`text` of all sequences, those of one prompt after another."""
        return [
            self.text(prompts[number // options.num_return_sequences], new, options)
            for number, new in enumerate(made.tokens)
        ]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: generation.Options,
        seed: int | Sequence[int],
    ) -> Iterator[tuple[int, str]]:
        """Which sequence goes on with what text, by and by; see `Engine.stream`.

        Raises:
          UserError: as `Engine.stream` does.
        """
        tellings: dict[int, Telling] = {}
        for pieces in self.engine.stream(
            prompts, options, seed=seed, find_stop=self._find_stop(options)
        ):
            for piece in pieces:
                prompt = prompts[piece.sequence // options.num_return_sequences]
                telling = tellings.setdefault(
                    piece.sequence, self.telling(prompt, options)
                )
                if text := telling.take(piece.tokens, is_last=piece.is_last):
                    yield piece.sequence, text

    def telling(self, prompt: Sequence[int], options: generation.Options) -> "Telling":
        """What tells the text of a sequence by and by."""
        return Telling(self._tokenizer, prompt, options.eos_token_id)

    def _find_stop(self, options: generation.Options) -> generation.FindStop | None:
        if not options.stop_strings:
            return None
        return generation.finder(self._tokenizer.loaded.decode, options.stop_strings)


class Telling:
    """The text of a sequence while it grows: `Writer.text`, piece by piece.

    Characters of several tokens come whole, and words whose spaces the tokenizer tidies
    up, once the next one has begun.
    """

    def __init__(
        self, tokenizer: data.Tokenizer, prompt: Sequence[int], ends: Sequence[int]
    ):
        """`ends` are tokens that end a sequence, which have no text."""
        self._tokenizer, self._ends = tokenizer, ends
        self._before, self._new = list(prompt), []
        self._told = ""
        self._tidies = tokenizer.loaded.clean_up_tokenization_spaces

    def take(self, tokens: Sequence[int], *, is_last: bool = False) -> str:
        """What more of the text is known with these tokens."""
        self._new += [id_ for id_ in tokens if id_ not in self._ends]
        text = self._tokenizer.continuation(self._before, self._new)
        if not is_last:
            if text.endswith("\ufffd"):
                return ""
            if self._tidies:
                text = text[: max(text.rfind(" "), 0)]
            if not text.startswith(self._told):
                return ""
        more = text[len(self._told) :]
        self._told = text
        if not self._tidies and more:
            # Nothing of it changes any more: later tokens are read behind the last ones
            # alone, so that long texts cost no more a token than short ones. Tokens of
            # no text would not do: behind them a text begins.
            self._before, self._new, self._told = self._new, [], ""
        return more


def _ids(prompt: Any) -> list[int] | None:
    """Token ids of any kind of integers, in any kind of sequence; None: it is none."""
    try:
        return [operator.index(each) for each in prompt]
    except TypeError:
        return None
