"""Examples packed into sequences, none seeing another, and batches of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptjax import errors
from gptjax.data import packing
from gptjax.data.batches import check_stream
from gptjax.data.instructions import Instructions

PADDING = -1
"""The segment of padding."""


def fit_in(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Which examples share a sequence: best fit, the longest first.

    How many sequences there are does not depend on the order of examples of one length.
    Packed so: Ding et al., "Fewer Truncations Improve Language Modeling", 2024,
    arXiv:2404.10830.

    Args:
      lengths: of the examples, `room` at most.
      room: tokens in a sequence.

    Returns:
      Numbers of examples, a list a sequence.
    """
    sequences: list[list[int]] = []
    # The sequences with so much room left, and a bit for each room that some have.
    with_room: list[list[int]] = [[] for _ in range(room + 1)]
    rooms = 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        fitting = rooms >> length << length
        if fitting:
            left = (fitting & -fitting).bit_length() - 1
            place = with_room[left].pop()
            rooms &= ~(1 << left) if not with_room[left] else -1
        else:
            left, place = room, len(sequences)
            sequences.append([])
        sequences[place].append(number)
        with_room[left - length].append(place)
        rooms |= 1 << (left - length)
    return sequences


def lay_out(
    instructions: Instructions,
    sequences: Sequence[Sequence[int]],
    *,
    sequence_tokens: int,
) -> dict[str, np.ndarray]:
    """Sequences of the given examples.

    Returns:
      `tokens`, `labels` and `segments`, all (sequences, T) int32. Labels are the
      tokens, not shifted, and -100 for what is not learnt: prompts, padding, and the
      first token of an example, which would be predicted from another's last one.
      Each example is a segment, counted from 0; padding, behind them, is `PADDING`.
    """
    shape = (len(sequences), sequence_tokens)
    # Padding is token 0, which no example sees.
    tokens = np.zeros(shape, np.int32)
    labels = np.full(shape, packing.IGNORED, np.int32)
    segments = np.full(shape, PADDING, np.int32)
    for row, numbers in enumerate(sequences):
        begin = 0
        for segment, number in enumerate(numbers):
            ids, is_learnt = instructions.ids(number), instructions.is_learnt(number)
            end = begin + len(ids)
            tokens[row, begin:end] = ids
            labels[row, begin:end] = np.where(is_learnt, ids, packing.IGNORED)
            labels[row, begin] = packing.IGNORED
            segments[row, begin:end] = segment
            begin = end
    return {"tokens": tokens, "labels": labels, "segments": segments}


class InstructionBatches(Iterator[dict[str, np.ndarray]]):
    """Endless batches of packed examples, each epoch packed and ordered anew.

    A batch is what `lay_out` gives, in arrays (A, B / A / process_count, T). Epochs
    follow one another without a gap, as in `batches.Batches`, and the batches depend on
    the seed and the sizes alone.
    """

    def __init__(
        self,
        instructions: Instructions,
        *,
        sequence_tokens: int,
        batch_sequences: int,
        accumulation_steps: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Starts at the first batch.

        Args:
          instructions: none longer than a sequence.
          sequence_tokens: T.
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
        self._instructions, self._seed = instructions, seed
        self._tokens = sequence_tokens
        self._shape = (accumulation_steps, process_count, batch_sequences // parts)
        self._process = process_index
        self._batch = batch_sequences
        self.epoch_sequences = len(fit_in(instructions.lengths, sequence_tokens))
        """How many sequences an epoch has."""
        self._place = 0
        self._packed: dict[int, list[list[int]]] = {}
        self._stream = {
            "examples": len(instructions),
            "checksum": instructions.checksum,
            "sequence_tokens": sequence_tokens,
            "batch_sequences": batch_sequences,
            "seed": seed,
        }

    def __next__(self) -> dict[str, np.ndarray]:
        first = self._place * self._batch
        numbers = np.arange(first, first + self._batch).reshape(self._shape)
        own = numbers[:, self._process]
        sequences = [self._sequence(number) for number in own.ravel().tolist()]
        self._place += 1
        batch = lay_out(self._instructions, sequences, sequence_tokens=self._tokens)
        return {name: x.reshape(*own.shape, -1) for name, x in batch.items()}

    def _sequence(self, number: int) -> list[int]:
        """The examples of a sequence, counted from the stream's beginning."""
        epoch, place = divmod(number, self.epoch_sequences)
        if epoch not in self._packed:
            # A batch may hold the end of one epoch and the beginning of the next.
            self._packed = {
                known: packed
                for known, packed in self._packed.items()
                if known == epoch - 1
            } | {epoch: self._pack(epoch)}
        return self._packed[epoch][place]

    def _pack(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, epoch])
        # Which of the examples of one length come together changes.
        order = rng.permutation(len(self._instructions))
        packed = fit_in(self._instructions.lengths[order], self._tokens)
        return [order[packed[place]].tolist() for place in rng.permutation(len(packed))]

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
