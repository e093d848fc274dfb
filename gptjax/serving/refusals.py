"""Why a request is not answered, in OpenAI's layout."""

import json
from collections.abc import Mapping
from typing import Any

import starlette.responses


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      param: the field that is to blame, where one is.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What the client reads."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> starlette.responses.Response:
        # As ASCII: a message may quote half a character, which has no UTF-8.
        return starlette.responses.Response(
            json.dumps(self.body()),
            status_code=self.status,
            headers=self.headers,
            media_type="application/json",
        )


def full() -> Refusal:
    """There is no room in a queue; with what OpenAI's clients wait by."""
    return Refusal(
        429,
        "the queue is full; try again later",
        code="queue_full",
        headers={"Retry-After": "1"},
    )


def late(seconds: float) -> Refusal:
    """There was no whole answer within so many seconds."""
    return Refusal(504, f"not done within {seconds:g} seconds", code="timeout")


def invalid(problems: list[Mapping[str, Any]]) -> Refusal:
    """Of a body that is not what a request may be, by pydantic's problems with it."""
    first = problems[0]
    place = [str(each) for each in first["loc"] if each != "body"]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return Refusal(400, f"the body is not JSON: {reason}, at {place[0]}")
    if first["type"] == "model_attributes_type" or not place:
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("model_attributes_type", "missing"):
            message = (
                "the body: a JSON object is wanted, with the header "
                "content-type: application/json"
            )
        return Refusal(400, message)
    # Of a field that may be of several types there is a problem with each of them.
    field = place[0]
    messages = dict.fromkeys(
        problem["msg"].removeprefix("Value error, ")
        for problem in problems
        if [str(each) for each in problem["loc"] if each != "body"][:1] == [field]
    )
    if first["type"] == "extra_forbidden":
        told = f"{'.'.join(place)}: gptjax has no such field"
        return Refusal(400, told, param=field, code="unsupported")
    where = ".".join(place) if len(messages) == 1 else field
    return Refusal(400, f"{where}: {'; or '.join(messages)}", param=field)
