"""What is answered, as OpenAI's API lays it out."""

from typing import Any, Literal

import pydantic

from gptjax.serving.choices import Told
from gptjax.serving.spelling import Spelled

Finish = Literal["stop", "length"]


class Problem(pydantic.BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(pydantic.BaseModel):
    """Why there is no answer."""

    error: Problem


class Usage(pydantic.BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LogProbs(pydantic.BaseModel):
    """Of a completion's tokens; the lists go side by side."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, told: list[Told]) -> "LogProbs":
        return cls(
            tokens=[each.token.text for each in told],
            token_logprobs=[each.log_prob for each in told],
            # The chosen one too, which need not be among the likeliest.
            top_logprobs=[
                {
                    token.text: log_prob
                    for token, log_prob in [
                        *each.likeliest,
                        (each.token, each.log_prob),
                    ]
                }
                for each in told
            ],
            text_offset=[each.offset for each in told],
        )


class CompletionChoice(pydantic.BaseModel):
    index: int
    text: str
    logprobs: LogProbs | None
    finish_reason: Finish | None


class Completion(pydantic.BaseModel):
    """Of a stream, too, each event of which has what is new."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Alternative(pydantic.BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None

    @classmethod
    def of(cls, token: Spelled, log_prob: float) -> "Alternative":
        return cls(token=token.text, logprob=log_prob, bytes=token.bytes)


class ChatToken(Alternative):
    top_logprobs: list[Alternative]


class ChatLogProbs(pydantic.BaseModel):
    content: list[ChatToken]
    refusal: None = None

    @classmethod
    def of(cls, told: list[Told]) -> "ChatLogProbs":
        return cls(
            content=[
                ChatToken(
                    **dict(Alternative.of(each.token, each.log_prob)),
                    top_logprobs=[Alternative.of(*own) for own in each.likeliest],
                )
                for each in told
            ]
        )


class Answer(pydantic.BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(pydantic.BaseModel):
    index: int
    message: Answer
    logprobs: ChatLogProbs | None
    finish_reason: Finish


class ChatCompletion(pydantic.BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelFacts(pydantic.BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["gptjax"] = "gptjax"
    parameters: int
    sparsity: float
    """The fraction of the kernels of its blocks that is exactly 0."""
    bytes: int
    """Of its weight files."""
    context: int
    """The most tokens of a text."""
    labels: dict[str, list[str]] | None = None
    """Of a classifier, those of each task."""


class ModelList(pydantic.BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelFacts]


class Label(pydantic.BaseModel):
    label: str
    probabilities: dict[str, float]


class WordLabel(Label):
    word: str


class Classified(pydantic.BaseModel):
    model: str
    results: list[Label | list[WordLabel]]
    """Of each text its label, or those of its words."""


class Health(pydantic.BaseModel):
    status: Literal["ok"] = "ok"


Event = dict[str, Any]
"""Of a chat's stream; its parts come without the keys that say nothing."""
