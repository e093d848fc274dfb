"""Sequences that grow, and what they have grown to."""

import dataclasses
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np

from gptjax import errors
from gptjax.generation import programs

Seed = int | Many[int]
"""Of draws: one for all prompts, or one for each."""


@dataclasses.dataclass(frozen=True)
class Generated:
    """What `Engine.generate` has made.

    Attributes:
      tokens: the new ones of each sequence, `num_return_sequences` of them for a prompt
        in turn; the last is the one that ended it, if one did.
      scores: with `output_scores`, what each was chosen by, (tokens, V) in float32; of
        beams None.
      beam_scores: of beams, their summed scores over the length penalty; None of
        others.
      acceptance: with a draft, which fraction of its tokens was accepted.
    """

    tokens: list[list[int]]
    scores: list[np.ndarray] | None = None
    beam_scores: list[float] | None = None
    acceptance: float | None = None


class Piece(NamedTuple):
    """What one sequence has got in one go."""

    sequence: int
    """Its number: `num_return_sequences` for each prompt in turn."""
    tokens: list[int]
    is_last: bool
    scores: np.ndarray | None = None
    """With `output_scores`: what they were chosen by, (tokens, V)."""
    proposed: int = 0
    accepted: int = 0
    """Of a draft's tokens."""


@dataclasses.dataclass
class Growing:
    """A sequence that grows."""

    number: int
    prompt: list[int]
    budget: int
    """New tokens, at most."""
    key: np.ndarray
    written: list[int] = dataclasses.field(default_factory=list)
    has_ended: bool = False

    def context(self, positions: int) -> list[int]:
        """What of it is read: all, or where no place is left, its last half."""
        tokens = self.prompt + self.written
        return tokens if len(tokens) < positions else tokens[-max(1, positions // 2) :]


def keys_of(seed: Seed, prompts: int, repeats: int) -> np.ndarray:
    """The raw key of each sequence: of its seed, and of its place among those of one
    seed.
    """
    is_one = np.ndim(seed) == 0
    for each in [seed] if is_one else seed:
        if not isinstance(each, int | np.integer) or not 0 <= each < 1 << 32:
            raise errors.UserError(
                f"seed {each!r}: it is an integer between 0 and 2 ** 32 - 1"
            )
    if is_one:
        pairs = [(seed, place) for place in range(prompts * repeats)]
    else:
        if len(seed) != prompts:
            raise errors.UserError(f"{len(seed)} seeds for {prompts} prompts")
        pairs = [(own, place) for own in seed for place in range(repeats)]
    seeds, places = (np.array(each, np.uint32) for each in zip(*pairs, strict=True))
    return np.asarray(programs.keys(seeds, places))


def key_of(seed: int, place: int) -> np.ndarray:
    """One of `keys_of` a seed, without a program for every number of sequences."""
    pair = (np.array([each], np.uint32) for each in (seed, place))
    return np.asarray(programs.keys(*pair))[0]
