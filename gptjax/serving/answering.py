"""Answers to completions and chats, whole or as a stream of events."""

import asyncio
import collections
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import starlette.requests
import starlette.responses

from gptjax.serving import replies, requests
from gptjax.serving.choices import Delta, Told
from gptjax.serving.refusals import Refusal
from gptjax.serving.running import Running

LAST_SECONDS = 5.0
"""For a stream's last events, once its time is up."""


class Shape:
    """How answers to one request are laid out."""

    def __init__(self, request: requests.Sampling):
        self._is_chat = isinstance(request, requests.ChatRequest)
        prefix = "chatcmpl" if self._is_chat else "cmpl"
        self._request = request
        self._same = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.model,
        }
        self._begun: set[int] = set()

    def whole(self, choices: list[Delta], running: Running) -> Any:
        """The answer, of what all its choices have become."""
        own = [self._choice(*each) for each in enumerate(choices)]
        kind = replies.ChatCompletion if self._is_chat else replies.Completion
        return kind(**self._same, choices=own, usage=_usage(running))

    def event(self, number: int, delta: Delta) -> replies.Event:
        """What is new of one choice."""
        if not self._is_chat:
            own = self._choice(number, delta).model_dump()
            return {**self._same, "object": "text_completion", "choices": [own]}
        new: dict[str, Any] = {"content": delta.text}
        if number not in self._begun:
            self._begun.add(number)
            new = {"role": "assistant", **new}
        choice = {
            "index": number,
            "delta": new,
            "logprobs": self._log_probs(delta.tokens),
            "finish_reason": delta.finish,
        }
        return {**self._same, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, running: Running) -> replies.Event:
        """The event that tells how many tokens there were."""
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        usage = _usage(running).model_dump()
        return {**self._same, "object": kind, "choices": [], "usage": usage}

    def _choice(self, number: int, delta: Delta) -> Any:
        log_probs = self._log_probs(delta.tokens)
        if self._is_chat:
            return replies.ChatChoice(
                index=number,
                message=replies.Answer(content=delta.text),
                logprobs=log_probs,
                finish_reason=delta.finish,
            )
        return replies.CompletionChoice(
            index=number,
            text=delta.text,
            logprobs=log_probs,
            finish_reason=delta.finish,
        )

    def _log_probs(self, told: list[Told]) -> Any:
        if self._request.likeliest is None:
            return None
        if self._is_chat:
            return replies.ChatLogProbs.of(told).model_dump()
        return replies.LogProbs.of(told).model_dump()


def _usage(running: Running) -> replies.Usage:
    read, written = running.prompt_tokens, running.completion_tokens
    return replies.Usage(
        prompt_tokens=read, completion_tokens=written, total_tokens=read + written
    )


async def whole(
    request: starlette.requests.Request, shape: Shape, running: Running
) -> starlette.responses.Response:
    """The answer once it is there; nothing where the client has gone.

    Raises:
      Refusal: as `Running.deltas`.
    """
    collecting = asyncio.create_task(_collected(running))
    leaving = asyncio.create_task(gone(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            # No one reads it; 499 is what other servers note of it.
            return starlette.responses.Response(status_code=499)
        body = shape.whole(collecting.result(), running).model_dump_json()
        return starlette.responses.Response(body, media_type="application/json")
    finally:
        running.close()
        collecting.cancel()
        leaving.cancel()


async def _collected(running: Running) -> list[Delta]:
    texts: dict[int, list[Delta]] = collections.defaultdict(list)
    async for number, delta in running.deltas():
        texts[number].append(delta)
    return [
        Delta(
            "".join(each.text for each in own),
            [token for each in own for token in each.tokens],
            own[-1].finish,
        )
        for _, own in sorted(texts.items())
    ]


async def gone(request: starlette.requests.Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(starlette.responses.StreamingResponse):
    """An answer as server-sent events, given up when the client goes."""

    def __init__(self, shape: Shape, running: Running, *, with_usage: bool):
        self._running = running
        super().__init__(
            _events(shape, running, with_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )

    async def __call__(self, scope, receive, send) -> None:
        # Who does not read gets no last event either.
        late = self._running.seconds_left + LAST_SECONDS
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(late):
                    await super().__call__(scope, receive, send)
        finally:
            self._running.close()


async def _events(
    shape: Shape, running: Running, with_usage: bool
) -> AsyncIterator[str]:
    try:
        async for number, delta in running.deltas():
            yield _event(shape.event(number, delta))
        if with_usage:
            yield _event(shape.last(running))
        yield "data: [DONE]\n\n"
    except Refusal as refusal:
        yield _event(refusal.body())


def _event(body: replies.Event) -> str:
    return f"data: {json.dumps(body)}\n\n"
