"""How likely continuations are, given what stands before them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors, model, rounding

BATCH_TOKENS = 8192
"""Read at once, where no number of sequences is asked for."""
MOST_SEQUENCES = 64
"""Read at once, however short they are, unless more are asked for."""
_LEAST = 16
"""Tokens that arrays are made for at least."""

Ids = Sequence[int]


class Score(NamedTuple):
    """What a model makes of a continuation."""

    log_likelihood: float
    """The sum over its tokens, in nats."""
    is_greedy: bool
    """Whether each of them is the likeliest after those before it."""


class _Row(NamedTuple):
    """What is read once, and the continuations that are scored on it."""

    tokens: tuple[int, ...]
    numbers: list[int]


def score(
    config: model.Config,
    params: Any,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    context: int,
    batch_sequences: int | None,
    most_sequences: int = MOST_SEQUENCES,
    dtype: Any = jnp.float32,
) -> Iterator[list[tuple[int, Score]]]:
    """Scores continuations, a batch of them at a time, the longest first.

    What two pairs have in common but for the last token is read once: the choices of a
    question whose answers are single tokens cost no more than one. Lengths are rounded
    up to a few sizes, for each of which a program is compiled.

    Args:
      params: of any floating dtype.
      pairs: token ids of a context and of what follows it, neither of them empty.
        Where both do not fit, the context loses its beginning.
      context: the most tokens read, at most n_positions. The last one of a
        continuation is predicted and not read.
      batch_sequences: read at once; None: as many as `sequences_at_once` tells.
      most_sequences: the most of those.
      dtype: of the computation.

    Yields:
      Of each pair of a batch, its place in `pairs` and its score.

    Raises:
      UserError: an empty part, a continuation that is longer than `context`.
    """
    rows = _rows(pairs, context)
    compute = model.Compute(dtype=dtype)
    begin = 0
    while begin < len(rows):
        length = min(rounded_up(len(rows[begin].tokens)), context)
        count = batch_sequences or sequences_at_once(length, most_sequences)
        batch = rows[begin : begin + count]
        begin += count
        # The last ones of a size may be few.
        count = min(count, rounding.power_of_two(len(batch)))
        tokens_BT = np.zeros((count, length), np.int32)
        for place, row in enumerate(batch):
            tokens_BT[place, : len(row.tokens)] = row.tokens
        x_BTD = _hidden(config, params, tokens_BT, compute=compute)
        yield _scores(config, params, x_BTD, batch, pairs, compute)


def sequences_at_once(tokens: int, most: int) -> int:
    """How many sequences of so many tokens are read at once: a power of two."""
    fitting = max(1, min(most, BATCH_TOKENS // tokens))
    return 1 << (fitting.bit_length() - 1)


def rounded_up(tokens: int) -> int:
    """A power of two, or one and a half of one, that is not below `tokens`."""
    whole = max(_LEAST, rounding.power_of_two(tokens))
    return whole * 3 // 4 if whole > _LEAST and tokens <= whole * 3 // 4 else whole


def _rows(pairs: Sequence[tuple[Ids, Ids]], context: int) -> list[_Row]:
    """What is to be read, the longest first."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, (before, after) in enumerate(pairs):
        if not before or not after:
            part = "continuation" if before else "context"
            raise errors.UserError(f"request {number}: its {part} has no token")
        if len(after) > context:
            raise errors.UserError(
                f"request {number}: its continuation of {len(after)} tokens is longer "
                f"than the {context} that are read at most"
            )
        read = (*before, *after)[-(context + 1) : -1]
        found.setdefault(read, []).append(number)
    rows = [_Row(tokens, numbers) for tokens, numbers in found.items()]
    return sorted(rows, key=lambda row: (-len(row.tokens), row.tokens))


def _scores(
    config: model.Config,
    params: Any,
    x_BTD: jax.Array,
    batch: Sequence[_Row],
    pairs: Sequence[tuple[Ids, Ids]],
    compute: model.Compute,
) -> list[tuple[int, Score]]:
    """The scores of all continuations of rows that were read."""
    numbers = [number for row in batch for number in row.numbers]
    places = [place for place, row in enumerate(batch) for _ in row.numbers]
    lengths = [len(pairs[number][1]) for number in numbers]
    # Where continuations are as good as all that was read, as long as that is.
    longest = min(rounded_up(max(lengths)), x_BTD.shape[1])
    at_once = len(x_BTD)
    found = []
    for begin in range(0, len(numbers), at_once):
        own = range(begin, min(begin + at_once, len(numbers)))
        rows_N = np.zeros(at_once, np.int32)
        times_NT = np.zeros((at_once, longest), np.int32)
        targets_NT = np.zeros((at_once, longest), np.int32)
        for line, each in enumerate(own):
            last, length = len(batch[places[each]].tokens), lengths[each]
            rows_N[line] = places[each]
            times_NT[line, :length] = range(last - length, last)
            targets_NT[line, :length] = pairs[numbers[each]][1]
        nll_NT, is_likeliest_NT = jax.device_get(
            _chosen(config, params, x_BTD, rows_N, times_NT, targets_NT, compute)
        )
        for line, each in enumerate(own):
            length = lengths[each]
            total = -float(nll_NT[line, :length].sum(dtype=np.float64))
            is_greedy = bool(is_likeliest_NT[line, :length].all())
            found.append((numbers[each], Score(total, is_greedy)))
    return found


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _hidden(config, params, tokens_BT, *, compute):
    return model.hidden(config, params, tokens_BT, compute=compute)


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _chosen(config, params, x_BTD, rows_N, times_NT, targets_NT, compute):
    """`model.token_scores` of some places of some rows."""
    x_NTD = x_BTD[rows_N[:, None], times_NT]
    return model.token_scores(config, params, x_NTD, targets_NT, compute=compute)
