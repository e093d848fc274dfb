"""What Prometheus is told."""

from collections.abc import Iterable

import prometheus_client
from prometheus_client import metrics as kinds

from gptjax.serving.served import Served

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, models: Iterable[Served]):
        self._registry = registry = prometheus_client.CollectorRegistry()

        def made(kind, name, text, *labels, **options):
            return kind(f"gptjax_{name}", text, labels, registry=registry, **options)

        self.requests = made(
            kinds.Counter, "requests", "Requests answered.", "path", "status"
        )
        self.prompt_tokens = made(
            kinds.Counter, "prompt_tokens", "Tokens of prompts.", "model"
        )
        self.generated_tokens = made(
            kinds.Counter, "generated_tokens", "Tokens written.", "model"
        )
        self.first_token = made(
            kinds.Histogram,
            "first_token_seconds",
            "From when a request is there whole to its first token.",
            "model",
            buckets=_SECONDS,
        )
        self.token = made(
            kinds.Histogram,
            "token_seconds",
            "From a sequence's token to its next.",
            "model",
            buckets=_SECONDS,
        )
        queue = made(kinds.Gauge, "queue_length", "Sequences that wait.", "model")
        slots = made(kinds.Gauge, "slots_in_use", "Sequences in slots.", "model")
        for each in models:
            if (own := each.scheduler) is not None:
                queue.labels(each.name).set_function(lambda own=own: own.waiting)
                slots.labels(each.name).set_function(lambda own=own: own.running)

    def page(self) -> tuple[bytes, str]:
        """All of it as Prometheus reads it, and its content type."""
        return (
            prometheus_client.generate_latest(self._registry),
            prometheus_client.CONTENT_TYPE_LATEST,
        )
