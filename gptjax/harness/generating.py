"""How a task of the lm-evaluation-harness wants texts written."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lm_eval.models.utils as harness

from gptjax import errors, generation, writing


@dataclasses.dataclass(frozen=True)
class Way:
    """The options of a task's `generation_kwargs`, and where texts end.

    Attributes:
      options: of the engine; its `stop_strings` are those of `until`.
      until: texts end before the first of these.
      find_stop: where new tokens complete one of them.
    """

    options: generation.Options
    until: tuple[str, ...]
    find_stop: generation.FindStop

    @property
    def most(self) -> int:
        """New tokens, at most."""
        return self.options.max_new_tokens

    def write(
        self,
        writer: writing.Writer,
        contexts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
    ) -> list[list[int]]:
        """The new tokens after each context."""
        return writer.engine.generate(
            contexts, self.options, seed=seeds, find_stop=self.find_stop
        ).tokens

    def cut(self, text: str) -> str:
        """A text up to where it ends."""
        return harness.postprocess_generated_text(text, list(self.until), None)


def way(
    wanted: Mapping[str, Any],
    writer: writing.Writer,
    *,
    new_tokens: int,
    end: str | None,
    decode: Callable[[Sequence[int]], str],
) -> Way:
    """What `generation_kwargs` ask for.

    They go by the harness's names and by Hugging Face's, on top of the checkpoint's
    generation_config.json. Unless tokens are drawn, what is said of drawing has no
    effect, as the harness has it.

    Args:
      writer: of the checkpoint.
      new_tokens: at most, where nothing is said of that.
      end: the token for the end of a text, as text.
      decode: a tokenizer's.

    Raises:
      UserError: an option that there is not, or a value that cannot be.
    """
    given = dict(harness.normalize_gen_kwargs(dict(wanted), new_tokens))
    until = harness.handle_stop_sequences(given.pop("until"), eos=end)
    for name in ("max_length", "num_return_sequences"):
        if name in given:
            raise errors.UserError(
                f"generation_kwargs {name}: the harness wants one text of a request, "
                "of max_gen_toks tokens at most"
            )
    if not given["do_sample"]:
        given = {
            name: value
            for name, value in given.items()
            if name not in generation.DRAWING
        }
    stops = tuple(dict.fromkeys(filter(None, until)))
    most = given.pop("max_gen_toks")
    options = writer.options({**given, "max_new_tokens": most, "stop_strings": stops})
    find = generation.finder(decode, stops)
    # A string that begins in the context ends nothing: the harness reads new text only.
    return Way(options, tuple(until), lambda _, new: find((), new))
