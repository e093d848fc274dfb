"""The routes, and their OpenAPI document."""

import dataclasses
import importlib.resources
import time
from collections.abc import Mapping
from typing import Any

import fastapi
import fastapi.exceptions
import starlette.concurrency
import starlette.exceptions
import starlette.responses

import gptjax
from gptjax.serving import answering, replies, requests, running
from gptjax.serving.classifying import Classifying
from gptjax.serving.guard import Guard
from gptjax.serving.metrics import Metrics
from gptjax.serving.refusals import Refusal, invalid
from gptjax.serving.served import Served

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": replies.ErrorReply, "description": "What is wrong with it."},
    "5XX": {"model": replies.ErrorReply, "description": "Why it was not done."},
}
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server does at most.

    Attributes:
      body_bytes: of a request.
      tokens: new ones, of a sequence.
      timeout_seconds: until a request's answer is whole.
      labelling: how many requests for labels wait for each other.
    """

    body_bytes: int
    tokens: int
    timeout_seconds: float
    labelling: int


def make(
    models: Mapping[str, Served],
    limits: Limits,
    *,
    api_key: str | None,
    is_private: bool = False,
) -> fastapi.FastAPI:
    """The server's application.

    Args:
      api_key: what clients must show; None: nothing.
      is_private: whether only those are answered who call it localhost, or by an
        address: what is no name, no one elsewhere can give to this machine.
    """
    metrics = Metrics(models.values())

    app = fastapi.FastAPI(
        title="gptjax",
        version=gptjax.__version__,
        description="Models as OpenAI's API speaks of them.",
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
    )
    _add_handlers(app)
    _add_openai(app, models, limits, metrics)
    _add_others(app, models, limits, metrics)
    _name_models(app, list(models))
    paths = {route.path for route in app.routes}
    app.add_middleware(
        Guard,
        metrics=metrics,
        paths=paths,
        api_key=api_key,
        most_bytes=limits.body_bytes,
        is_private=is_private,
    )
    return app


def _name_models(app: fastapi.FastAPI, names: list[str]) -> None:
    """Says in the OpenAPI document which models there are."""
    described = app.openapi()["components"]["schemas"]
    for request in ("CompletionRequest", "ChatRequest", "ClassifyRequest"):
        own = described[request]["properties"]["model"]
        own = own["anyOf"][0] if "anyOf" in own else own
        own["enum"] = names


def _add_handlers(app: fastapi.FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_, refusal):
        return refusal.response()

    @app.exception_handler(fastapi.exceptions.RequestValidationError)
    async def misunderstood(_, error):
        return invalid(error.errors()).response()

    @app.exception_handler(starlette.exceptions.HTTPException)
    async def elsewhere(request, error):
        told = error.detail
        if error.status_code in (404, 405):
            told = f"{request.method} {request.url.path}: {told}"
        headers = error.headers
        return Refusal(error.status_code, told, headers=headers).response()

    @app.exception_handler(Exception)
    async def failed(_, error):
        return Refusal(500, f"internal error: {type(error).__name__}").response()


def _add_openai(
    app: fastapi.FastAPI,
    models: Mapping[str, Served],
    limits: Limits,
    metrics: Metrics,
) -> None:
    @app.get("/v1/models")
    async def list_models() -> replies.ModelList:
        """The models that are served, with their size and sparsity."""
        return replies.ModelList(data=[_facts(each) for each in models.values()])

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> replies.ModelFacts:
        """One of them."""
        return _facts(_find(models, name))

    async def answer(
        request: fastapi.Request, asked: requests.Sampling
    ) -> starlette.responses.Response:
        began = time.monotonic()
        served = _find(models, asked.model)
        understood = await starlette.concurrency.run_in_threadpool(
            running.understand, served, asked, most_tokens=limits.tokens
        )
        begun = running.Running(
            served,
            understood,
            metrics,
            began=began,
            timeout_seconds=limits.timeout_seconds,
        )
        shape = answering.Shape(asked)
        if not asked.stream:
            return await answering.whole(request, shape, begun)
        options = asked.stream_options
        with_usage = options is not None and options.include_usage
        return answering.Stream(shape, begun, with_usage=with_usage)

    @app.post(
        "/v1/completions",
        responses={200: {"model": replies.Completion, "content": _STREAM}},
    )
    async def complete(
        request: fastapi.Request, asked: requests.CompletionRequest
    ) -> starlette.responses.Response:
        """Goes on with texts."""
        return await answer(request, asked)

    @app.post(
        "/v1/chat/completions",
        responses={200: {"model": replies.ChatCompletion, "content": _STREAM}},
    )
    async def chat(
        request: fastapi.Request, asked: requests.ChatRequest
    ) -> starlette.responses.Response:
        """Answers a chat, by the model's chat template."""
        return await answer(request, asked)


def _add_others(
    app: fastapi.FastAPI,
    models: Mapping[str, Served],
    limits: Limits,
    metrics: Metrics,
) -> None:
    classifying = Classifying(
        most=limits.labelling, timeout_seconds=limits.timeout_seconds
    )

    @app.post("/classify")
    async def classify(
        request: fastapi.Request, asked: requests.ClassifyRequest
    ) -> replies.Classified:
        """The labels of texts, by a model that is a classifier."""
        if asked.model is None and len(models) > 1:
            raise Refusal(400, f"model: say which: {', '.join(models)}", param="model")
        name = next(iter(models)) if asked.model is None else asked.model
        found = await classifying.labels(request, _find(models, name), asked)
        return replies.Classified(model=name, results=found)

    @app.get("/healthz")
    async def health() -> replies.Health:
        """Whether the server can answer."""
        for each in models.values():
            if each.scheduler is not None and each.scheduler.failure is not None:
                raise Refusal(503, f"{each.name}: {each.scheduler.failure}")
        return replies.Health()

    @app.get(
        "/metrics",
        response_class=starlette.responses.PlainTextResponse,
    )
    async def measured() -> starlette.responses.Response:
        """Counters and times, as Prometheus reads them."""
        body, kind = metrics.page()
        return starlette.responses.Response(body, media_type=kind)

    page = importlib.resources.files("gptjax.serving") / "page.html"

    @app.get("/", include_in_schema=False)
    async def front() -> starlette.responses.Response:
        """A page to write with the models."""
        return starlette.responses.HTMLResponse(page.read_bytes())


def _find(models: Mapping[str, Served], name: str) -> Served:
    if name not in models:
        raise Refusal(
            404,
            f"model {name!r}: this server has {', '.join(models)}",
            param="model",
            code="model_not_found",
        )
    return models[name]


def _facts(served: Served) -> replies.ModelFacts:
    classifiers = served.model.config.classifiers
    return replies.ModelFacts(
        id=served.name,
        created=served.created,
        parameters=served.parameters,
        sparsity=served.sparsity,
        bytes=served.bytes,
        context=served.context,
        labels={each.name: list(each.labels) for each in classifiers} or None,
    )
