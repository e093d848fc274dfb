"""Batches of several streams, one after the other as chance has it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gptjax.data.batches import Batches, check_stream
from gptjax.data.example_batches import ExampleBatches
from gptjax.data.instruction_batches import InstructionBatches


class Mixture(Iterator[dict[str, dict[str, np.ndarray]]]):
    """Each batch is the next one of one stream, as `{name: batch}`.

    Of which is drawn anew every time, alike on all processes.
    """

    def __init__(
        self,
        streams: Mapping[str, Batches | ExampleBatches | InstructionBatches],
        chances: Mapping[str, float],
        *,
        seed: int,
    ):
        """Starts at the first batch.

        Args:
          streams: by name.
          chances: of each, in any unit.
          seed: of the draws.
        """
        self._streams, self._seed, self._place = dict(streams), seed, 0
        total = sum(chances[name] for name in streams)
        self._chances = {name: chances[name] / total for name in streams}
        self._stream = {"chances": self._chances, "seed": seed}

    def __next__(self) -> dict[str, dict[str, np.ndarray]]:
        rng = np.random.default_rng([self._seed, self._place])
        name = rng.choice(list(self._streams), p=list(self._chances.values()))
        self._place += 1
        return {str(name): next(self._streams[name])}

    def get_state(self) -> dict[str, Any]:
        """The place in all streams as a JSON-able dict, alike on all processes."""
        states = {name: each.get_state() for name, each in self._streams.items()}
        return {"place": self._place, "stream": self._stream, "streams": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called; the next batch is the one due then.

        Raises:
          UserError: the state is of other data or settings.
        """
        check_stream(state["stream"], self._stream)
        for name, each in self._streams.items():
            each.set_state(state["streams"][name])
        self._place = state["place"]
