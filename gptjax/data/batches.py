"""An endless, shuffled, resumable stream of batches, over Grain."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gptjax import errors
from gptjax.data import packing, tokens


class Batches(Iterator[dict[str, np.ndarray]]):
    """Endless batches of packed sequences, each epoch in another order.

    A batch is what `packing.pack` gives, in arrays (A, B / A / process_count, T):
    accumulation steps, sequences, time. Epochs follow one another without a gap: a
    batch may hold the end of one and the beginning of the next. The batches depend
    on the seed and the sizes alone; those of all processes, joined on axis 1 in
    their order, are the batch that one process alone would get.
    """

    def __init__(
        self,
        data: tokens.Tokens,
        *,
        sequence_tokens: int,
        batch_sequences: int,
        accumulation_steps: int,
        seed: int,
        respect_documents: bool,
        beside: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Starts at the first batch.

        Args:
          data: tokens.
          sequence_tokens: T.
          batch_sequences: B, of all processes and accumulation steps together.
          accumulation_steps: A.
          seed: of the shuffling.
          respect_documents: keep documents apart (see `packing.pack`).
          beside: gives further arrays (..., T, ...) of a batch, from the numbers (...)
            of its sequences; it is asked for this process's share alone.
          process_index: which share of each batch is wanted (see `process_share`).
          process_count: into how many shares a batch is split.

        Raises:
          UserError: fewer tokens than one sequence, or a batch that does not divide.
        """
        # Grain takes a second to import: who does not train does not pay.
        import grain

        parts = accumulation_steps * process_count
        if batch_sequences % parts:
            raise errors.UserError(
                f"training.batch_sequences: {batch_sequences} does not divide over "
                f"{accumulation_steps} accumulation steps x {process_count} processes"
            )
        share = batch_sequences // parts
        self.epoch_sequences = packing.count_sequences(data, sequence_tokens)
        """How many sequences an epoch has."""
        self._stream = {
            "tokens": len(data),
            "checksum": data.checksum,
            "sequence_tokens": sequence_tokens,
            "batch_sequences": batch_sequences,
            "seed": seed,
            "respect_documents": respect_documents,
        }

        def load(numbers: np.ndarray) -> dict[str, np.ndarray]:
            by_process = numbers.reshape(accumulation_steps, process_count, share)
            own = by_process[:, process_index]
            batch = packing.pack(
                data,
                own,
                sequence_tokens=sequence_tokens,
                respect_documents=respect_documents,
            )
            return batch if beside is None else {**batch, **beside(own)}

        # Batches of sequence numbers first, so that a process reads its share only.
        numbers = grain.MapDataset.range(self.epoch_sequences).seed(seed).shuffle()
        # Of an endless stream Grain computes the last batch's number in floating
        # point, and overflows; dropping the remainder, in integers.
        steps = numbers.repeat().batch(batch_sequences, drop_remainder=True).map(load)
        # No threads of Grain's own: `prefetch` runs all of this in one.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._iterator = iter(steps.to_iter_dataset(options))

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The place in the stream as a small JSON-able dict, alike on all processes."""
        return {"place": self._iterator.get_state(), "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called; the next batch is the one due then.

        Raises:
          UserError: the state is of other data or settings.
        """
        check_stream(state["stream"], self._stream)
        self._iterator.set_state(state["place"])


def check_stream(was: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises a `UserError` unless two descriptions of a stream are one."""
    for key, value in now.items():
        if was.get(key) != value:
            raise errors.UserError(
                f"cannot resume on other data: {key} was {was.get(key)}, now it is "
                f"{value}"
            )
