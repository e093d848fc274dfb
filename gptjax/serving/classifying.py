"""Labels of texts, one request after another."""

import asyncio
import threading

import starlette.requests

from gptjax import errors
from gptjax.serving import answering, refusals, replies, requests
from gptjax.serving.refusals import Refusal
from gptjax.serving.served import Served


class Classifying:
    """Requests for labels, in threads that wait for each other."""

    def __init__(self, *, most: int, timeout_seconds: float):
        """`most` requests at a time wait or are answered."""
        self._most, self._timeout_seconds = most, timeout_seconds
        self._threads = 0

    async def labels(
        self,
        request: starlette.requests.Request,
        served: Served,
        asked: requests.ClassifyRequest,
    ) -> list[replies.Label | list[replies.WordLabel]]:
        """Of each text its label, or those of its words.

        Raises:
          Refusal: there is no room, time is up, the client has gone, or the model
            cannot label it.
        """
        if self._threads >= self._most:
            raise refusals.full()
        given_up = threading.Event()
        self._threads += 1
        labelling = asyncio.ensure_future(
            asyncio.to_thread(served.label, asked.texts, asked.task, given_up)
        )
        # A thread cannot be ended: its place is free when it ends.
        labelling.add_done_callback(self._ended)
        leaving = asyncio.create_task(answering.gone(request))
        try:
            done, _ = await asyncio.wait(
                {labelling, leaving},
                timeout=self._timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            given_up.set()
            leaving.cancel()
        if not done:
            raise refusals.late(self._timeout_seconds)
        if labelling not in done:
            # No one reads it.
            raise Refusal(499, "the client has gone")
        try:
            return [_labels(each) for each in labelling.result()]
        except errors.UserError as error:
            raise Refusal(400, served.public(error)) from error

    def _ended(self, labelling: asyncio.Future) -> None:
        self._threads -= 1
        if not labelling.cancelled():
            # Or it is complained of, where no one waits for it any more.
            labelling.exception()


def _labels(found):
    """Of a text, or of each of its words."""
    if isinstance(found, list):
        return [
            replies.WordLabel(
                word=word, label=own.label, probabilities=own.probabilities
            )
            for word, own in found
        ]
    return replies.Label(label=found.label, probabilities=found.probabilities)
