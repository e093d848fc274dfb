"""Stop strings: where in the new tokens one is complete."""

import bisect
from collections.abc import Callable, Sequence

from gptjax.generation.engine import FindStop


def finder(
    decode: Callable[[Sequence[int]], str], stop_strings: Sequence[str]
) -> FindStop:
    """Finds the token that completes the first of some strings, as `Engine` wants it.

    A string may begin in the prompt, but not end there.

    Args:
      decode: a tokenizer's.
    """

    def find(prompt, new):
        before = len(decode(prompt))

        def is_complete(count):
            text = decode([*prompt, *new[:count]])
            return any(stop in text[max(0, before - len(stop) + 1) :] for stop in stops)

        if not is_complete(len(new)):
            return None
        return bisect.bisect_left(range(len(new)), True, lo=1, key=is_complete)

    stops = tuple(stop_strings)
    return find
