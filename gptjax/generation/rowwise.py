"""Options of each sequence for itself, without a program for each.

`processors.make` compiles a program for every list of processors. Here the list is one
and the same, and each of it changes the sequences that ask for it, so that strangers
can be decoded together, each as if it were alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors
from gptjax.generation import filters, processors
from gptjax.generation.options import Options

BIASES = 300
"""Of single tokens, that a sequence may have at most: as many as in OpenAI's API."""

_FREE = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "eos_token_id",
    "stop_strings",
    "prefill_chunk_size",
)
"""Options that say nothing of scores; who decodes together sees to them apart."""


class Settings(NamedTuple):
    """Options of B sequences as arrays."""

    draws_B: np.ndarray
    asks: dict[str, np.ndarray]
    """By option, which sequences ask for it, bool (B,)."""
    values: dict[str, np.ndarray]
    """Of those that do not ask any that does no harm, float32 (B,)."""
    bias_ids_BE: np.ndarray
    biases_BE: np.ndarray


class _Kind(NamedTuple):
    neutral: Any
    """The option's value that asks for nothing."""
    make: Callable[[jax.Array], processors.Processor]
    """Of values B1."""
    is_of_drawing: bool = True
    value: Callable[[Any], float] = float


_KINDS = {
    "repetition_penalty": _Kind(1, processors.RepetitionPenalty, is_of_drawing=False),
    "frequency_penalty": _Kind(
        0, lambda v_B1: processors.CountPenalties(0, v_B1), is_of_drawing=False
    ),
    "presence_penalty": _Kind(
        0, lambda v_B1: processors.CountPenalties(v_B1, 0), is_of_drawing=False
    ),
    "temperature": _Kind(1, processors.Temperature),
    "top_k": _Kind(0, lambda k_B1: _TopKEach(k_B1)),
    "top_p": _Kind(
        1,
        lambda v_B1: processors.Filter("top_p", v_B1, 1),
        # As `processors.make` does, in double precision.
        value=lambda mass: 1 - mass,
    ),
    "min_p": _Kind(None, lambda v_B1: processors.Filter("min_p", v_B1, 1)),
}
"""In the order of `processors.make`."""


class _TopKEach(NamedTuple):
    k_B1: jax.Array

    def __call__(self, scores_BV, seen):
        del seen
        return filters.top_k_each(scores_BV, self.k_B1.astype(jnp.int32))


def check_shared(options: Options) -> None:
    """Raises a `UserError` unless a sequence may be decoded among others so."""
    defaults = Options()
    for name in Options.model_fields:
        value = getattr(options, name)
        if name in _KINDS or name in _FREE or value == getattr(defaults, name):
            continue
        if name == "sequence_bias":
            if all(len(ids) == 1 for ids, _ in value) and len(value) <= BIASES:
                continue
            raise errors.UserError(
                f"sequence_bias: of at most {BIASES} single tokens, where sequences "
                "are decoded together"
            )
        raise errors.UserError(
            f"{name} {value!r}: cannot be shared; sequences that are decoded together "
            "have no such option"
        )


def none(sequences: int, vocab_size: int) -> Settings:
    """Settings of sequences that ask for nothing."""
    return Settings(
        draws_B=np.zeros(sequences, bool),
        asks={name: np.zeros(sequences, bool) for name in _KINDS},
        values={name: np.ones(sequences, np.float32) for name in _KINDS},
        bias_ids_BE=np.full((sequences, BIASES), vocab_size, np.int32),
        biases_BE=np.zeros((sequences, BIASES), np.float32),
    )


def put(settings: Settings, row: int, options: Options, vocab_size: int) -> None:
    """Writes one sequence's options, which `check_shared` has passed, into settings."""
    settings.draws_B[row] = options.do_sample
    for name, kind in _KINDS.items():
        value = getattr(options, name)
        is_due = options.do_sample or not kind.is_of_drawing
        asks = is_due and value is not None and value != kind.neutral
        settings.asks[name][row] = asks
        settings.values[name][row] = kind.value(value) if asks else 1
    settings.bias_ids_BE[row] = vocab_size
    settings.biases_BE[row] = 0
    for place, ((id_,), bias) in enumerate(options.sequence_bias):
        settings.bias_ids_BE[row, place] = id_
        settings.biases_BE[row, place] = bias


def process(
    settings: Settings, scores_BV: jax.Array, seen: processors.Seen
) -> jax.Array:
    """Scores changed as each sequence asks; what none asks for is not computed."""
    changes = [(_Bias(settings), (settings.bias_ids_BE < scores_BV.shape[1]).any(-1))]
    changes += [
        (kind.make(settings.values[name][:, None]), settings.asks[name])
        for name, kind in _KINDS.items()
    ]
    for processor, asks_B in changes:
        scores_BV = _for_some(processor, asks_B[:, None], scores_BV, seen)
    return scores_BV


def _for_some(processor, asks_B1, scores_BV, seen):
    def changed(scores_BV):
        return jnp.where(asks_B1, processor(scores_BV, seen), scores_BV)

    return jax.lax.cond(asks_B1.any(), changed, lambda same: same, scores_BV)


@dataclasses.dataclass(frozen=True)
class _Bias:
    settings: Settings

    def __call__(self, scores_BV, seen):
        del seen
        rows_B1 = jnp.arange(len(scores_BV))[:, None]
        at = scores_BV.at[rows_B1, self.settings.bias_ids_BE]
        return at.add(self.settings.biases_BE, mode="drop")
