"""Who is decoded when: a bounded queue in front of a model's slots."""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np

from gptjax import generation

_READ_AT_ONCE = 512
"""Tokens of prompts that are read between two steps: they hold up all who write."""


class Full(Exception):
    """The queue has no room for all sequences of a request."""


class Ended(Exception):
    """The scheduler has been closed, or has failed."""


@dataclasses.dataclass(eq=False)
class Job:
    """A sequence that is to be written.

    Attributes:
      options: of `max_new_tokens` at least one.
      receive: called in the scheduler's thread with each token, and with an `Ended`
        where there will be no more for a reason that is not the sequence's own.
      wants_log_probs: whether tokens come with theirs.
    """

    prompt: Sequence[int]
    options: generation.Options
    key: np.ndarray
    receive: Callable[["generation.Token | Ended"], None]
    wants_log_probs: bool = False
    is_cancelled: bool = False
    written: int = 0


class Scheduler:
    """A thread that decodes jobs together, the first come first.

    A job ends with one of its options' `eos_token_id`, with its last token, or when it
    is cancelled; then its slot is the next one's.
    """

    def __init__(self, slots: generation.Slots, *, longest_queue: int):
        """Starts the thread. All programs are compiled by then.

        Args:
          longest_queue: how many jobs wait for a slot at most.
        """
        slots.compile()
        self._slots, self._longest_queue = slots, longest_queue
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._closes = False
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """How many tokens a sequence has at most."""
        return self._slots.context

    @property
    def most(self) -> int:
        """How many jobs there may be at once."""
        return self._slots.count + self._longest_queue

    @property
    def waiting(self) -> int:
        """How many jobs have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return len(self._running)

    @property
    def failure(self) -> str | None:
        """Why nothing is decoded any more; None: it is."""
        return self._failure

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues all jobs of a request, or none.

        Raises:
          Full: there is no room for them.
          Ended: nothing is decoded any more.
        """
        with self._changed:
            if self._failure is not None or self._closes:
                raise Ended(self._failure or "the server is shutting down")
            if len(self._waiting) + len(self._running) + len(jobs) > self.most:
                raise Full
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Takes jobs that have not ended out of the queue, or out of their slots."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread; jobs that are left are told."""
        with self._changed:
            self._closes = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        why = "the server is shutting down"
        try:
            while self._admit():
                self._slots.read(_READ_AT_ONCE)
                for token in self._slots.step():
                    self._hand(token)
        except Exception as error:
            # Whoever waits must hear of it, whatever it is; then it is told as it came.
            why = f"decoding failed: {type(error).__name__}"
            raise
        finally:
            with self._changed:
                self._failure = why
                left = [*self._running.values(), *self._waiting]
                self._running.clear()
                self._waiting.clear()
            for job in left:
                job.receive(Ended(why))

    def _admit(self) -> bool:
        """Frees slots and fills them; waits while there is nothing to do.

        Returns:
          Whether there is more to do, ever.
        """
        with self._changed:
            for slot, job in list(self._running.items()):
                if job.is_cancelled:
                    self._free(slot)
            self._changed.wait_for(
                lambda: self._closes or self._waiting or self._running
            )
            if self._closes:
                return False
            while self._waiting and self._slots.free:
                job = self._waiting[0]
                slot = self._slots.insert(
                    job.prompt,
                    job.options,
                    job.key,
                    wants_log_probs=job.wants_log_probs,
                )
                # Not before: where that fails, it is still one of those who are told.
                self._running[slot] = self._waiting.popleft()
        return True

    def _hand(self, token: generation.Token) -> None:
        job = self._running[token.slot]
        job.written += 1
        is_last = (
            token.id in job.options.eos_token_id
            or job.written >= job.options.max_new_tokens
        )
        if is_last:
            with self._changed:
                self._free(token.slot)
        if not job.is_cancelled:
            job.receive(token)

    def _free(self, slot: int) -> None:
        del self._running[slot]
        self._slots.remove(slot)
