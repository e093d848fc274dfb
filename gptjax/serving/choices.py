"""One answer while it grows: its text, its stops, its log-probabilities."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from gptjax import generation, writing
from gptjax.serving.spelling import Spelled, Spelling


class Told(NamedTuple):
    """A token of a text with what the model says of it."""

    token: Spelled
    log_prob: float
    likeliest: list[tuple[Spelled, float]]
    """The likeliest tokens at this place, as many as were asked for."""
    offset: int
    """Where in the answer's text it begins."""


class Delta(NamedTuple):
    """What is new of an answer."""

    text: str
    tokens: list[Told]
    """Those that begin in what has been told so far; none unless they are wanted."""
    finish: Literal["stop", "length"] | None


class Choice:
    """An answer, from its tokens as they come.

    A stop string is no part of it, and what might be the beginning of one is held
    back until that is known.
    """

    def __init__(
        self,
        telling: writing.Telling,
        spelling: Spelling,
        options: generation.Options,
        *,
        stops: Sequence[str],
        likeliest: int | None,
    ):
        """`likeliest` tokens are told at each place; None: not even the chosen one."""
        self._telling, self._spelling, self._options = telling, spelling, options
        self._stops, self._likeliest = stops, likeliest
        self._held = ""
        self._told = 0
        self._waiting: list[Told] = []
        self.tokens = 0
        """How many have come, one that ended it among them."""
        self.finish: Literal["stop", "length"] | None = None

    def take(self, token: generation.Token) -> Delta:
        """What the next token adds."""
        self.tokens += 1
        is_end = token.id in self._options.eos_token_id
        if is_end:
            self.finish = "stop"
        elif self.tokens >= self._options.max_new_tokens:
            self.finish = "length"
        if token.log_probs is not None and not is_end:
            self._waiting.append(self._record(token))
        self._held += self._telling.take([token.id], is_last=self.finish is not None)
        place = min(
            (at for at in map(self._held.find, self._stops) if at >= 0), default=-1
        )
        if place >= 0:
            self.finish = "stop"
            text, self._held = self._held[:place], ""
        elif self.finish is not None:
            text, self._held = self._held, ""
        else:
            kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
            free = len(self._held) - kept
            text, self._held = self._held[:free], self._held[free:]
        self._told += len(text)
        is_whole = self.finish is not None and place < 0
        known = [each for each in self._waiting if is_whole or each.offset < self._told]
        self._waiting = self._waiting[len(known) :]
        return Delta(text, known, self.finish)

    def _record(self, token: generation.Token) -> Told:
        assert token.log_probs is not None
        assert self._likeliest is not None
        return Told(
            token=self._spelling(token.id),
            log_prob=_finite(token.log_probs.own),
            likeliest=[
                (self._spelling(id_), _finite(value))
                for id_, value in token.log_probs.likeliest[: self._likeliest]
            ],
            offset=self._told + len(self._held),
        )


def _finite(log_prob: float) -> float:
    """OpenAI's stand-in for minus infinity, which JSON has not."""
    return max(-9999.0, log_prob)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text a string may begin with."""
    most = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in most if text.endswith(stop[:size])), 0)
