"""What a body may hold, and how little of a wrong one is looked at."""

import pydantic
import pytest

from gptjax.serving import requests

MANY = 20_000
TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (requests.CompletionRequest, {"prompt": [1.5] * MANY}),
        (requests.CompletionRequest, {"prompt": [{}] * MANY}),
        (requests.CompletionRequest, {"prompt": [[]] * MANY}),
        (requests.CompletionRequest, {"prompt": [[1.5] * MANY]}),
        (requests.CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
        (
            requests.CompletionRequest,
            {"prompt": "a", "logit_bias": dict.fromkeys(map(str, range(MANY)), "x")},
        ),
        (
            requests.CompletionRequest,
            {"prompt": "a", **dict.fromkeys(map(str, range(MANY)), 1)},
        ),
        (requests.ChatRequest, {"messages": [{}] * MANY}),
        (requests.ChatRequest, {"messages": [{**TURN, "content": [{}] * MANY}]}),
        (requests.ClassifyRequest, {"texts": [1] * MANY}),
    ],
)
def test_of_many_faults_few_are_looked_for(kind, wrong):
    """All of them would hold up every client for seconds: this is the event loop."""
    with pytest.raises(pydantic.ValidationError) as found:
        kind.model_validate({"model": "a", **wrong})
    assert found.value.error_count() <= 4


@pytest.mark.parametrize(
    "given",
    [
        {"stop": []},
        {"user": "me", "safety_identifier": "me", "prompt_cache_key": "key"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"messages": [{**TURN, "name": "Ann"}]},
        {"messages": [{**TURN, "refusal": None, "tool_calls": [], "annotations": []}]},
    ],
)
def test_what_asks_for_nothing_is_taken(given):
    """Clients write it unasked."""
    body = {"model": "a", "messages": [TURN], **given}
    made = requests.ChatRequest.model_validate(body)
    assert made.stops == []
    assert [each.turn() for each in made.messages] == [TURN]


def test_a_developer_is_the_system():
    """Of the two names of OpenAI's, templates know the older."""
    turn = requests.Message(role="developer", content="Be brief.").turn()
    assert turn == {"role": "system", "content": "Be brief."}
