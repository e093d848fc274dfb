"""A polite stop: SIGTERM and Ctrl-C let the running step end and its state be saved."""

import signal
import types

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Notes SIGTERM and SIGINT instead of dying of them, while it is entered.

    Preemptible machines send SIGTERM some seconds before they vanish. A second
    signal of the same kind acts as it always did.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[self.signal])

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; the same answer in every process.

        Each process is told apart and at another moment, so on many hosts JAX's
        preemption service picks a step that all of them still have before them.
        """
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = self.signal or signal.SIGTERM
                return True
            return False
        return self.signal is not None
