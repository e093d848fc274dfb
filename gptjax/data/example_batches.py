"""An endless, shuffled, resumable stream of batches of labelled texts."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gptjax import errors, rounding
from gptjax.data import examples as examples_lib
from gptjax.data import packing
from gptjax.data.batches import check_stream

_SMALLEST = 16
_SORTED_BATCHES = 50
"""Of so many batches the texts are sorted by length: enough that texts of a batch are
alike, and few enough that every epoch mixes them anew."""


def padded_length(tokens: int, longest: int) -> int:
    """How long a batch is whose longest text has so many tokens: a power of two, that
    few programs are compiled, and `longest` at most.
    """
    return min(max(_SMALLEST, rounding.power_of_two(tokens)), longest)


def fill(
    examples: examples_lib.Examples,
    numbers: np.ndarray,
    *,
    longest: int,
    pad_id: int,
    with_labels: bool = False,
    ids_of: Callable[[int, int], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The texts of the given numbers, cut to `longest` tokens, and filled up.

    Args:
      numbers: integers (...); below 0: a row of padding without a class.
      with_labels: whether tokens are to be predicted as well.
      ids_of: gives the token ids of the text in a row, from its number and the row, in
        place of `examples.ids`.

    Returns:
      `tokens` (..., T) int32 and `classes` (...) int32, of tagged texts (..., T); if
      asked for, `labels` (..., T) int32, the tokens again, but -100 for padding.
    """
    flat = numbers.reshape(-1)
    ids_of = ids_of or (lambda number, row: examples.ids(number))
    texts = [ids_of(n, row)[:longest] if n >= 0 else () for row, n in enumerate(flat)]
    length = padded_length(max(map(len, texts)), longest)
    tokens = np.full((len(flat), length), pad_id, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    classes = examples.classes_of(flat, length)
    batch = {
        "tokens": tokens.reshape(*numbers.shape, length),
        "classes": classes.reshape(*numbers.shape, *classes.shape[1:]),
    }
    if with_labels:
        ends = np.array([len(text) for text in texts]).reshape(*numbers.shape, 1)
        is_text = np.arange(length) < ends
        batch["labels"] = np.where(is_text, batch["tokens"], np.int32(packing.IGNORED))
    return batch


class ExampleBatches(Iterator[dict[str, np.ndarray]]):
    """Endless batches of whole texts, each epoch in another order.

    Texts of about the same length come together, filled up on the right. A batch is
    what `fill` gives, in arrays (A, B / A / process_count, ...). Epochs follow one
    another without a gap, as in `batches.Batches`, and the batches depend on the seed
    and the sizes alone.
    """

    def __init__(
        self,
        examples: examples_lib.Examples,
        *,
        sequence_tokens: int,
        batch_sequences: int,
        accumulation_steps: int,
        seed: int,
        pad_id: int,
        with_labels: bool = False,
        change: Callable[[int, np.random.Generator], np.ndarray] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Starts at the first batch.

        Args:
          sequence_tokens: the most tokens of a text; more are cut off.
          pad_id, with_labels: as for `fill`.
          change: gives the token ids of a changed text, from its number and a random
            generator that the seed and the place in the stream make; None: texts stay.
          batch_sequences: B, of all processes and accumulation steps together.
          accumulation_steps: A.
          process_index: which share of each batch is wanted (see `process_share`).
          process_count: into how many shares a batch is split.

        Raises:
          UserError: a batch that does not divide.
        """
        parts = accumulation_steps * process_count
        if batch_sequences % parts:
            raise errors.UserError(
                f"training.batch_sequences: {batch_sequences} does not divide over "
                f"{accumulation_steps} accumulation steps x {process_count} processes"
            )
        self._examples, self._seed, self._change = examples, seed, change
        self.epoch_sequences = len(examples)
        """How many texts an epoch has."""
        self._fill = functools.partial(
            fill,
            examples,
            longest=sequence_tokens,
            pad_id=pad_id,
            with_labels=with_labels,
        )
        self._shape = (accumulation_steps, process_count, batch_sequences // parts)
        self._process = process_index
        self._batch = batch_sequences
        # Of more than an epoch, a text would meet itself.
        self._sorted = min(_SORTED_BATCHES, max(1, len(examples) // batch_sequences))
        self._lengths = np.minimum(examples.lengths, sequence_tokens)
        self._place = 0
        self._group: tuple[int, np.ndarray] | None = None
        self._stream = {
            "texts": len(examples),
            "checksum": examples.checksum,
            "sequence_tokens": sequence_tokens,
            "batch_sequences": batch_sequences,
            "seed": seed,
        }

    def __next__(self) -> dict[str, np.ndarray]:
        group, number = divmod(self._place, self._sorted)
        if self._group is None or self._group[0] != group:
            self._group = (group, self._sort(group))
        numbers = self._group[1][number]
        self._place += 1
        place = self._place
        ids_of = None
        if self._change is not None:

            def ids_of(number, row):
                return self._change(
                    number, np.random.default_rng([self._seed, 2, place, row])
                )

        batch = self._fill(numbers.reshape(self._shape), ids_of=ids_of)
        return {name: array[:, self._process] for name, array in batch.items()}

    def _sort(self, group: int) -> np.ndarray:
        """The batches of a group, as numbers of texts (batches, B)."""
        size = self._sorted * self._batch
        epochs, places = np.divmod(
            np.arange(group * size, (group + 1) * size), len(self._examples)
        )
        numbers = np.concatenate(
            [
                self._shuffle(epoch)[places[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
        )
        order = np.argsort(self._lengths[numbers], kind="stable")
        batches = numbers[order].reshape(self._sorted, self._batch)
        return np.random.default_rng([self._seed, 1, group]).permutation(batches)

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, 0, epoch])
        return rng.permutation(len(self._examples))

    def get_state(self) -> dict[str, Any]:
        """The place in the stream as a small JSON-able dict, alike on all processes."""
        return {"place": self._place, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called; the next batch is the one due then.

        Raises:
          UserError: the state is of other data or settings.
        """
        check_stream(state["stream"], self._stream)
        self._place = state["place"]
