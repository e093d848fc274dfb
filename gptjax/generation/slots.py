"""Decoding together what comes and goes: a fixed number of slots in one cache.

A sequence takes a slot when one is free, its prompt is read in pieces between the steps
of the others, and it leaves when it has ended; nothing is compiled for it (continuous
batching: Yu et al., "Orca", OSDI 2022). What is drawn for it depends on its key and on
nothing else, as in `Engine.generate`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model, rounding
from gptjax.generation import processors, programs, rowwise
from gptjax.generation.engine import Engine
from gptjax.generation.growing import key_of, keys_of
from gptjax.generation.options import Options

LIKELIEST = 20
"""How many of the likeliest tokens are told, where a sequence wants them."""
_CHUNK = 128
"""Tokens of a prompt that are read at once."""
_SHORT_CHUNK = 16
_WIDER = 8
"""By how much more sequences another program steps."""


class LogProbs(NamedTuple):
    """What the model says of the next token, before options change it."""

    own: float
    """The logarithm of the chosen token's probability."""
    likeliest: list[tuple[int, float]]
    """Token ids with theirs, the likeliest first, `LIKELIEST` of them."""


class Token(NamedTuple):
    """What a step brings to a slot."""

    slot: int
    id: int
    log_probs: LogProbs | None


@dataclasses.dataclass
class _Held:
    """A sequence in its slot."""

    tokens: list[int]
    """Of the prompt, and those that followed."""
    read: int = 0
    """How many tokens the cache holds of it, all but the last in the end."""

    @property
    def is_read(self) -> bool:
        return self.read >= len(self.tokens) - 1


class Slots:
    """Sequences that are decoded together and end each for itself.

    Not for several threads at once.
    """

    def __init__(self, engine: Engine, *, slots: int, context: int):
        """An empty cache.

        Args:
          context: how many tokens a sequence has at most, its prompt among them.
        """
        self.count, self.context = slots, context
        self._engine = engine
        vocabulary = engine.config.vocab_size
        self._chunk = min(_CHUNK, rounding.power_of_two(context))
        places = -(-context // self._chunk) * self._chunk
        self._cache = programs.empty(
            engine.config, engine.laid, slots, places, dtype=engine.dtype, mesh=None
        )
        self._tokens_BS = jnp.zeros((slots, places), jnp.int32)
        self._settings = rowwise.none(slots, vocabulary)
        self._keys_B = np.array(keys_of(0, slots, 1))
        self._prompts_B = np.zeros(slots, np.int32)
        self._limits_B = np.zeros(slots, np.int32)
        self._wants_B = np.zeros(slots, bool)
        self._rows: Any = None
        self._held: dict[int, _Held] = {}
        widths = [1]
        while widths[-1] < slots:
            widths.append(min(_WIDER * widths[-1], slots))
        self._widths = widths

    @property
    def free(self) -> int:
        """How many slots are."""
        return self.count - len(self._held)

    def compile(self) -> None:
        """Compiles all that will ever run, so that no sequence waits for it."""
        for width in self._widths:
            self._step(width)
        size = min(_SHORT_CHUNK, self._chunk)
        while size <= self._chunk:
            self._read([0] * size, 0, 0)
            size *= 2
        self.remove(self.insert([0], Options(max_new_tokens=1), key_of(0, 0)))

    def insert(
        self,
        prompt: Sequence[int],
        options: Options,
        key: np.ndarray,
        *,
        wants_log_probs: bool = False,
    ) -> int:
        """Gives a sequence the first free slot, and tells which.

        Args:
          prompt: its tokens, at least one and fewer than the context.
          options: such as `check_shared` passes; what ends a sequence is the
            caller's business.
          key: of its draws, a row of `growing.keys_of`.
        """
        slot = next(each for each in range(self.count) if each not in self._held)
        self._held[slot] = _Held(list(prompt))
        row = np.zeros(self._tokens_BS.shape[1], np.int32)
        row[: len(prompt)] = prompt
        self._tokens_BS = _with_row(self._tokens_BS, row, slot)
        rowwise.put(self._settings, slot, options, self._engine.config.vocab_size)
        self._keys_B[slot] = key
        self._prompts_B[slot] = len(prompt)
        self._limits_B[slot] = len(prompt) + options.new_tokens(len(prompt))
        self._wants_B[slot] = wants_log_probs
        self._rows = None
        return slot

    def remove(self, slot: int) -> None:
        """Frees a slot. What its options asked for is not computed any longer."""
        del self._held[slot]
        vocabulary = self._engine.config.vocab_size
        rowwise.put(self._settings, slot, Options(), vocabulary)
        self._wants_B[slot] = False
        self._rows = None

    def read(self, tokens: int) -> None:
        """Reads prompts, first come first, until so many tokens or more are read."""
        for slot, held in self._held.items():
            while not held.is_read and tokens > 0:
                left = held.tokens[held.read : -1][: self._chunk]
                size = max(rounding.power_of_two(len(left)), _SHORT_CHUNK)
                padded = left + [0] * (min(size, self._chunk) - len(left))
                self._read(padded, slot, held.read)
                held.read += len(left)
                tokens -= len(left)

    def step(self) -> list[Token]:
        """The next token of every sequence whose prompt has been read."""
        grows = [slot for slot, held in self._held.items() if held.is_read]
        if not grows:
            return []
        width = next(each for each in self._widths if each > max(grows))
        next_B, own_B, ids_BJ, log_probs_BJ = self._step(width, grows)
        found = []
        for slot in grows:
            self._held[slot].tokens.append(int(next_B[slot]))
            self._held[slot].read += 1
            log_probs = None
            if self._wants_B[slot]:
                likeliest = zip(
                    ids_BJ[slot].tolist(), log_probs_BJ[slot].tolist(), strict=True
                )
                log_probs = LogProbs(float(own_B[slot]), list(likeliest))
            found.append(Token(slot, int(next_B[slot]), log_probs))
        return found

    def _step(self, width: int, grows: Sequence[int] = ()) -> list[np.ndarray]:
        engine = self._engine
        if self._rows is None:
            # Copies: a step may still read what is written for the next one.
            self._rows = jax.tree.map(
                jnp.array,
                _Rows(
                    self._settings,
                    self._keys_B,
                    self._prompts_B,
                    self._limits_B,
                    self._wants_B,
                ),
            )
        lengths_B = np.ones(self.count, np.int32)
        for slot, held in self._held.items():
            # What a step writes at the place after the last that is read, it writes
            # where no one has looked yet.
            lengths_B[slot] = held.read + 1
        grows_B = np.zeros(self.count, bool)
        grows_B[list(grows)] = True
        self._tokens_BS, self._cache, found = _step(
            engine.config,
            engine.laid,
            self._tokens_BS,
            self._cache,
            self._rows,
            lengths_B,
            grows_B,
            width=width,
            dtype=engine.dtype,
        )
        return [np.asarray(each) for each in found]

    def _read(self, tokens: list[int], slot: int, start: int) -> None:
        engine = self._engine
        tokens_1T = np.array([tokens], np.int32)
        self._cache = _prefill(
            engine.config,
            engine.laid,
            tokens_1T,
            self._cache,
            np.int32(slot),
            np.int32(start),
            dtype=engine.dtype,
        )


class _Rows(NamedTuple):
    """What of B sequences stays the same."""

    settings: rowwise.Settings
    keys_B: np.ndarray
    prompts_B: np.ndarray
    limits_B: np.ndarray
    wants_B: np.ndarray
    """Whether log-probabilities are wanted."""


@functools.partial(jax.jit, donate_argnums=0)
def _with_row(tokens_BS, row_S, slot):
    return tokens_BS.at[slot].set(row_S)


@functools.partial(
    jax.jit, static_argnames=("config", "dtype"), donate_argnames="cache"
)
def _prefill(config, laid, tokens_1T, cache, slot, start, *, dtype):
    """The cache with some tokens of one slot."""

    def own(leaf):
        return jax.lax.dynamic_slice_in_dim(leaf, slot, 1, axis=leaf.ndim - 4)

    def put(leaf, new):
        return jax.lax.dynamic_update_slice_in_dim(leaf, new, slot, axis=leaf.ndim - 4)

    row = jax.tree.map(own, cache)
    _, row = model.extend(config, laid, tokens_1T, row, start, dtype=dtype)
    return jax.tree.map(put, cache, row)


@functools.partial(
    jax.jit,
    static_argnames=("config", "width", "dtype"),
    donate_argnames=("tokens_BS", "cache"),
)
def _step(config, laid, tokens_BS, cache, rows, lengths_B, grows_B, *, width, dtype):
    """The next token of each of the first `width` slots, kept where it grows."""
    all_BS = tokens_BS
    tokens_BS, rows, lengths_B, grows_B = jax.tree.map(
        lambda leaf: leaf[:width], (tokens_BS, rows, lengths_B, grows_B)
    )
    numbers_B = jnp.arange(width)
    last_B = tokens_BS[numbers_B, lengths_B - 1]
    x_BTD, cache = model.extend(
        config, laid, last_B[:, None], cache, lengths_B - 1, dtype=dtype
    )
    logits_BV = model.scores(config, laid, x_BTD[:, -1], dtype=dtype)
    seen = processors.Seen(tokens_BS, lengths_B, rows.prompts_B, rows.limits_B)
    scores_BV = rowwise.process(rows.settings, logits_BV, seen)
    best_B = jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)
    draws_B = rows.settings.draws_B

    def draw():
        drawn_B = programs.drawn(scores_BV, rows.keys_B, lengths_B - rows.prompts_B)
        return jnp.where(draws_B, drawn_B, best_B)

    next_B = jax.lax.cond(draws_B.any(), draw, lambda: best_B)
    found = _likeliest(logits_BV, next_B, rows.wants_B)
    kept_B = jnp.where(grows_B, next_B, tokens_BS[numbers_B, lengths_B])
    all_BS = all_BS.at[numbers_B, lengths_B].set(kept_B)
    return all_BS, cache, (next_B, *found)


def _likeliest(logits_BV, next_B, wants_B):
    """Log-probabilities of the chosen tokens, ids and those of the likeliest; zeros
    where none is wanted."""
    width, count = len(logits_BV), min(LIKELIEST, logits_BV.shape[1])

    def find():
        log_probs_BV = jax.nn.log_softmax(logits_BV)
        own_B = jnp.take_along_axis(log_probs_BV, next_B[:, None], axis=1)[:, 0]
        highest_BJ, ids_BJ = jax.lax.top_k(log_probs_BV, count)
        return own_B, ids_BJ, highest_BJ

    def skip():
        return (
            jnp.zeros(width, jnp.float32),
            jnp.zeros((width, count), jnp.int32),
            jnp.zeros((width, count), jnp.float32),
        )

    return jax.lax.cond(wants_B.any(), find, skip)
