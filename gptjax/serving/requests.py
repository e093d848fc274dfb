"""What may be asked: the requests of OpenAI's API that gptjax answers.

What that API has and gptjax has not is refused by name, unless its value asks for
nothing. Of a body that is wrong a thousand times only the first fault is looked for:
all of this runs on the event loop, and holds up whoever else is answered.
"""

import abc
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from gptjax import generation

_OF_REQUESTS = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None,),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
_OF_MESSAGES = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}
"""Of an answer of the server's, which a client sends back as it came."""

_Id = Annotated[int, pydantic.Field(ge=0, lt=1 << 31)]
_Stop = Annotated[str, pydantic.Field(min_length=1)]
_Count = Annotated[int, pydantic.Field(ge=1)]
_Penalty = Annotated[float, pydantic.Field(ge=-2, le=2)]
_Bias = Annotated[float, pydantic.Field(ge=-100, le=100)]
_Several = pydantic.Field(min_length=1, fail_fast=True)


def _few(value: Any) -> Any:
    # Before the items, each of which may be wrong.
    if isinstance(value, Mapping) and len(value) > generation.BIASES:
        raise ValueError(f"{len(value)} tokens; at most {generation.BIASES}")
    return value


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields of OpenAI's that there are not, with values that ask for nothing."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, value: Any) -> Any:
        fields = cls.model_fields
        if not isinstance(value, Mapping) or value.keys() <= fields.keys():
            return value
        known = {name: each for name, each in value.items() if name in fields}
        for name, each in value.items():
            if name not in known and not cls._asks_nothing(name, each):
                # One is enough to be refused.
                return {**known, name: each}
        return known

    @classmethod
    def _asks_nothing(cls, name: str, value: Any) -> bool:
        # False equals 0, and True 1.
        return any(
            value == each and type(value) is type(each)
            for each in cls.neutral.get(name, ())
        )


class StreamOptions(_Strict):
    neutral = {"include_obfuscation": (None, False)}
    include_usage: bool = False
    """Whether a last event tells how many tokens there were."""


class Sampling(_Strict):
    """What both kinds of completions have. Left out, an option is as in
    `gptjax generate`: the checkpoint's, or a temperature of 0.8 and the 50 likeliest.
    """

    neutral = _OF_REQUESTS
    model: str
    """A name of `/v1/models`."""
    max_tokens: _Count | None = None
    """New tokens, at most; as many as there is room for. Left out, the checkpoint's
    number, or 50."""
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    """0: always the likeliest token."""
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, pydantic.Field(ge=0, lt=1 << 24)] | None = None
    """0: all. This, `min_p` and `repetition_penalty` are not OpenAI's."""
    min_p: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, pydantic.Field(gt=0, le=100)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, pydantic.Field(pattern=r"^[0-9]{1,9}$")], _Bias],
            pydantic.Field(max_length=generation.BIASES),
            pydantic.BeforeValidator(_few),
        ]
        | None
    ) = None
    """By token id, what is added to its score."""
    seed: Annotated[int, pydantic.Field(ge=0, lt=1 << 32)] | None = None
    """Of the draws; None: any."""
    n: Annotated[int, pydantic.Field(ge=1, le=128)] | None = None
    """Answers to each prompt."""
    stop: (
        _Stop
        | Annotated[list[_Stop], pydantic.Field(max_length=4, fail_fast=True)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Who asks, as in the next two: taken, and of no effect."""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings, if any."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    @abc.abstractmethod
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are to be told; None: no log-probability."""

    @property
    def new_tokens(self) -> int | None:
        """How many tokens are asked for at most."""
        return self.max_tokens

    @property
    def new_tokens_name(self) -> str:
        """What that is called."""
        return "max_tokens"

    def options(self) -> dict[str, Any]:
        """By the names of `generation.Options`, those that are given."""
        same = ["repetition_penalty", "presence_penalty", "frequency_penalty"]
        found: dict[str, Any] = {"max_new_tokens": self.new_tokens}
        if self.temperature == 0:
            found["do_sample"] = False
        else:
            same += ["temperature", "top_p", "top_k", "min_p"]
        found |= {name: getattr(self, name) for name in same}
        if self.logit_bias:
            found["sequence_bias"] = [
                ((int(id_),), bias) for id_, bias in self.logit_bias.items()
            ]
        return {name: value for name, value in found.items() if value is not None}


class CompletionRequest(Sampling):
    """Texts that are to be gone on with."""

    prompt: (
        str
        | Annotated[list[str], _Several]
        | Annotated[list[_Id], _Several]
        | Annotated[list[Annotated[list[_Id], _Several]], _Several]
    )
    """A text, or token ids, or several of either."""
    logprobs: Annotated[int, pydantic.Field(ge=0, le=generation.LIKELIEST)] | None = (
        None
    )
    """How many of the likeliest tokens are told at each place, beside the chosen."""

    @property
    def prompts(self) -> list[Any]:
        """Each as a text or as token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def likeliest(self) -> int | None:
        return self.logprobs


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of a chat."""

    neutral = _OF_MESSAGES
    role: Literal["system", "developer", "user", "assistant"]
    """OpenAI's newer name of `system` is `developer`; templates know the older."""
    content: str | Annotated[list[TextPart], _Several]
    name: str | None = None
    """Of who speaks; no chat template has a place for it, so it has no effect."""

    def turn(self) -> dict[str, str]:
        """As a chat template takes it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content}


class ChatRequest(Sampling):
    """A chat that is to be answered."""

    messages: Annotated[list[Message], _Several]
    max_completion_tokens: _Count | None = None
    """The newer name of `max_tokens`, and goes before it."""
    logprobs: bool | None = None
    top_logprobs: (
        Annotated[int, pydantic.Field(ge=0, le=generation.LIKELIEST)] | None
    ) = None
    """How many of the likeliest tokens are told at each place, with `logprobs`."""

    @pydantic.model_validator(mode="after")
    def _fit_together(self):
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: goes with logprobs: true")
        return self

    @property
    def likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def new_tokens(self) -> int | None:
        if self.max_completion_tokens is None:
            return self.max_tokens
        return self.max_completion_tokens

    @property
    def new_tokens_name(self) -> str:
        given = self.max_completion_tokens is not None
        return "max_completion_tokens" if given else "max_tokens"


class ClassifyRequest(_Strict):
    """Texts that are to be labelled."""

    texts: Annotated[
        list[str], pydantic.Field(min_length=1, max_length=256, fail_fast=True)
    ]
    model: str | None = None
    """A name of `/v1/models`; may be left out where there is one model."""
    task: str | None = None
    """Whose classifier, where the model has several."""
