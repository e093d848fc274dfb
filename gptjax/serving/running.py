"""A request while it runs: its sequences handed in, what is new of them handed out."""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np

from gptjax import errors, generation
from gptjax.serving import refusals, requests
from gptjax.serving.choices import Choice, Delta
from gptjax.serving.metrics import Metrics
from gptjax.serving.refusals import Refusal
from gptjax.serving.scheduler import Ended, Full, Job
from gptjax.serving.served import Served


@dataclasses.dataclass(frozen=True)
class Asked:
    """Sequences that a request wants written.

    Attributes:
      prompts: token ids.
      options: of each prompt.
      stops: what ends a text, and is no part of it.
      keys: of the draws of each sequence; those of one prompt after another.
    """

    prompts: Sequence[Sequence[int]]
    options: Sequence[generation.Options]
    stops: Sequence[str]
    keys: Sequence[np.ndarray]
    request: requests.Sampling


def understand(
    served: Served, request: requests.Sampling, *, most_tokens: int
) -> Asked:
    """What a request wants, in tokens. Takes its time: not for the event loop.

    Args:
      most_tokens: new ones, of each sequence.

    Raises:
      Refusal: what cannot be written.
    """
    if served.scheduler is None:
        raise Refusal(
            400,
            f"{served.name} is a classifier, which /classify asks; it writes nothing",
            param="model",
        )
    if request.new_tokens is not None and request.new_tokens > most_tokens:
        raise Refusal(
            400,
            f"{request.new_tokens_name}: {request.new_tokens}; this server writes at "
            f"most {most_tokens}",
            param=request.new_tokens_name,
        )
    if request.stream_options is not None and not request.stream:
        raise Refusal(
            400, "stream_options: goes with stream: true", param="stream_options"
        )
    count = request.n or 1
    if isinstance(request, requests.CompletionRequest):
        count *= len(request.prompts)
    if count > served.scheduler.most:
        raise Refusal(
            400,
            f"{count} sequences in one request; this server takes at most "
            f"{served.scheduler.most} at once",
        )
    writer = served.model.writer
    try:
        if isinstance(request, requests.ChatRequest):
            turns = [each.turn() for each in request.messages]
            prompts = writer.encode([turns], style=None, chat=True)
        else:
            assert isinstance(request, requests.CompletionRequest)
            prompts = writer.encode(request.prompts, style=None, chat=False)
        options = writer.options(writer.drawing(request.options()))
        own = []
        for prompt in prompts:
            new = _new_tokens(served, request, options.new_tokens(len(prompt)), prompt)
            new = min(new, most_tokens)
            own.append(options.model_copy(update={"max_new_tokens": new}))
        for prompt, each in zip(prompts, own, strict=True):
            writer.engine.check([prompt], each)
    except errors.UserError as error:
        raise Refusal(400, served.public(error)) from error
    for (id_,), _ in options.sequence_bias:
        if id_ >= served.model.config.vocab_size:
            raise Refusal(
                400,
                f"logit_bias: token id {id_} is beyond the model's vocab_size "
                f"{served.model.config.vocab_size}",
                param="logit_bias",
            )
    seed = secrets.randbits(32) if request.seed is None else request.seed
    repeats = request.n or 1
    keys = [generation.key_of(seed, n) for n in range(len(prompts) * repeats)]
    # Left out, they are the checkpoint's, as all options.
    stops = request.stops or options.stop_strings
    return Asked(prompts, own, stops, keys, request)


def _new_tokens(served, request, wanted: int, prompt: Sequence[int]) -> int:
    """How many tokens may follow a prompt."""
    room = served.context - len(prompt)
    if room < 1 or (request.new_tokens is not None and wanted > room):
        asked = f" and {request.new_tokens} new ones" if request.new_tokens else ""
        raise Refusal(
            400,
            f"a prompt of {len(prompt)} tokens{asked} does not fit the context of "
            f"{served.context} tokens",
            param="messages" if isinstance(request, requests.ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    return min(wanted, room)


class Running:
    """Sequences in a scheduler, until `close`.

    Attributes:
      prompt_tokens: of all prompts together, each counted once.
      completion_tokens: how many have been written.
    """

    def __init__(
        self,
        served: Served,
        asked: Asked,
        metrics: Metrics,
        *,
        began: float,
        timeout_seconds: float,
    ):
        """Hands the sequences in.

        Args:
          began: when the request was there, by `time.monotonic`.
          timeout_seconds: from then on, until all have ended.

        Raises:
          Refusal: there is no room in the queue.
        """
        assert served.scheduler is not None
        self._scheduler, self._timeout_seconds = served.scheduler, timeout_seconds
        self._metrics, self._name = metrics, served.name
        self._events: asyncio.Queue[tuple[int, generation.Token | Ended | None]]
        self._events = asyncio.Queue()
        self._began = began
        loop, request = asyncio.get_running_loop(), asked.request
        self._timer = loop.call_later(
            self.seconds_left, self._events.put_nowait, (0, None)
        )
        repeats = len(asked.keys) // len(asked.prompts)
        self._choices: list[Choice] = []
        self._jobs: list[Job] = []
        for number, key in enumerate(asked.keys):
            prompt = asked.prompts[number // repeats]
            options = asked.options[number // repeats]

            def receive(event, number=number):
                # Of a loop that has ended meanwhile no one waits for it.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

            self._jobs.append(
                Job(
                    prompt,
                    options,
                    key,
                    receive,
                    wants_log_probs=request.likeliest is not None,
                )
            )
            self._choices.append(
                Choice(
                    served.model.writer.telling(prompt, options),
                    served.spelling,
                    options,
                    stops=asked.stops,
                    likeliest=request.likeliest,
                )
            )
        self.prompt_tokens = sum(map(len, asked.prompts))
        try:
            self._scheduler.submit(self._jobs)
        except Full:
            self._timer.cancel()
            raise refusals.full() from None
        except Ended as error:
            self._timer.cancel()
            raise Refusal(503, str(error)) from None
        metrics.prompt_tokens.labels(served.name).inc(self.prompt_tokens)

    @property
    def seconds_left(self) -> float:
        """Until time is up."""
        return max(0.0, self._began + self._timeout_seconds - time.monotonic())

    @property
    def completion_tokens(self) -> int:
        return sum(each.tokens for each in self._choices)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """What is new, with the number of its sequence, until all have ended.

        Raises:
          Refusal: time is up, or decoding has failed.
        """
        token_seconds = self._metrics.token.labels(self._name)
        generated = self._metrics.generated_tokens.labels(self._name)
        last = [self._began] * len(self._choices)
        while any(each.finish is None for each in self._choices):
            number, event = await self._events.get()
            if event is None:
                raise refusals.late(self._timeout_seconds)
            if isinstance(event, Ended):
                raise Refusal(503, str(event))
            choice, now = self._choices[number], time.monotonic()
            if choice.finish is not None:
                continue
            generated.inc()
            if choice.tokens:
                token_seconds.observe(now - last[number])
            elif self.completion_tokens == 0:
                self._metrics.first_token.labels(self._name).observe(now - self._began)
            last[number] = now
            delta = choice.take(event)
            if delta.finish is not None:
                # Of a stop string the scheduler knows nothing.
                self._scheduler.cancel([self._jobs[number]])
            if delta.text or delta.tokens or delta.finish:
                yield number, delta

    def close(self) -> None:
        """Frees what is still taken."""
        self._timer.cancel()
        open_ = [
            job
            for job, choice in zip(self._jobs, self._choices, strict=True)
            if choice.finish is None
        ]
        if open_:
            self._scheduler.cancel(open_)
