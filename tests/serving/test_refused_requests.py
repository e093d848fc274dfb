"""Requests that cannot be answered: each is told why, and none leaves anything."""

import asyncio
import json
import re
import socket
import time

import httpx
import pytest

from gptjax.serving import answering, guard, requests

GOOD = {"model": "packaged", "prompt": "It is", "max_tokens": 3}


def _problem(response):
    return response.json()["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [3, 4000]}, "token id 4000"),
        ({"prompt": "a " * 70}, "does not fit the context of 64 tokens"),
        ({"max_tokens": 39, "prompt": [5] * 30}, "does not fit"),
        ({"max_tokens": 41}, "max_tokens: 41; this server writes at most 40"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 100}, "at most 74"),
        ({"n": True}, "n: "),
        ({"seed": 1 << 32}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"the": 1}}, "logit_bias"),
        ({"logit_bias": {"4000": 1}}, "token id 4000"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"echo": True}, "echo: gptjax has no such field"),
        ({"best_of": 2}, "best_of: gptjax has no such field"),
        ({"suffix": "x"}, "suffix: gptjax has no such field"),
        ({"num_beams": 2}, "num_beams: gptjax has no such field"),
        ({"model": "labels"}, "is a classifier"),
    ],
)
def test_what_is_wrong_is_named(post, change, said):
    """In OpenAI's layout, by which its clients raise."""
    response = post("/v1/completions", {**GOOD, **change})
    assert response.status_code == 400
    assert said in _problem(response)["message"]
    assert _problem(response)["type"] == "invalid_request_error"


def test_fields_that_ask_for_nothing_may_be_there(post):
    """Clients write out OpenAI's defaults, of what there is not, too."""
    neutral = {"best_of": 1, "echo": False, "suffix": None, "stream": None, "tools": []}
    assert post("/v1/completions", {**GOOD, **neutral}).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object is wanted"),
        (b'{"model": "packaged", "prompt": "a", "seed": NaN}', "seed"),
        (b'{"model": "packaged", "prompt": "\\ud800"}', "not Unicode"),
        (b'{"model": "\\ud800", "prompt": "a"}', "this server has"),
        (b'{"a": ' * 3000, ""),
        (b"\xff\xfe", ""),
    ],
)
def test_malformed_bodies_are_told_apart(url, body, said):
    """No parser's accident may become a 500."""
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{url}/v1/completions", content=body, headers=headers)
    assert response.status_code in (400, 404)
    assert said in _problem(response)["message"]


def test_other_kinds_of_bodies_paths_and_methods_are_refused(url):
    """A form is what curl sends unasked, and what other sites' pages may send."""
    response = httpx.post(f"{url}/v1/completions", content=json.dumps(GOOD))
    assert response.status_code == 400
    assert "content-type: application/json" in _problem(response)["message"]
    assert httpx.get(f"{url}/v1/nothing").status_code == 404
    assert httpx.delete(f"{url}/v1/models").status_code == 405
    assert httpx.get(f"{url}/v1/models/none").status_code == 404


def test_large_bodies_are_not_read(url):
    """With their length told, and without."""
    many = b" " * 30_000
    headers = {"content-type": "application/json"}
    for content in (many, iter([many])):
        response = httpx.post(f"{url}/v1/completions", content=content, headers=headers)
        assert response.status_code == 413
        assert "more than 20,000 bytes" in _problem(response)["message"]


def test_a_body_that_never_ends_is_given_up(url, monkeypatch):
    """Or whoever sends none would hold a connection for ever."""
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_chat_takes_a_template_and_known_roles(post):
    """Guessed, a template would answer otherwise than the model was taught."""
    turn = {"role": "user", "content": "Hi"}
    response = post("/v1/chat/completions", {"model": "packaged", "messages": [turn]})
    assert response.status_code == 400
    assert _problem(response)["message"].startswith("packaged: its tokenizer has no")
    for wrong in (
        {"messages": []},
        {"messages": [{**turn, "role": "tool"}]},
        {"messages": [{**turn, "refusal": "No."}]},
        {"messages": [turn], "tools": [{"type": "function"}]},
        {"messages": [turn], "top_logprobs": 3},
        {"messages": [turn], "max_completion_tokens": 41},
    ):
        response = post("/v1/chat/completions", {"model": "chat", **wrong})
        assert response.status_code == 400
        assert next(iter(reversed(wrong))) in _problem(response)["message"]


def test_a_key_is_asked_for_everywhere_but_for_health_and_the_page(models, serve):
    """One forgotten route, and the key protects nothing."""
    url = serve(models, api_key="s3cret")
    paths = ["/v1/models", "/v1/models/packaged", "/metrics", "/openapi.json", "/none"]
    for path in paths:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": b"Bearer \xe9"},
        ):
            response = httpx.get(url + path, headers=headers)
            assert response.status_code == 401
            assert _problem(response)["code"] == "invalid_api_key"
    assert httpx.post(f"{url}/v1/completions", json=GOOD).status_code == 401
    assert httpx.post(f"{url}/classify", json={"texts": ["a"]}).status_code == 401
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/").text.startswith("<!DOCTYPE html>")
    right = {"Authorization": "Bearer s3cret"}
    assert httpx.get(f"{url}/v1/models", headers=right).status_code == 200


def test_a_late_answer_is_told(models, serve):
    """Who is told at once can go elsewhere; who waits for ever cannot."""
    url = serve(models, timeout_seconds=0.001)
    late = httpx.post(f"{url}/v1/completions", json={**GOOD, "max_tokens": 40})
    assert late.status_code == 504
    assert _problem(late)["code"] == "timeout"
    streamed = httpx.post(
        f"{url}/v1/completions", json={**GOOD, "max_tokens": 40, "stream": True}
    )
    assert "not done within 0.001 seconds" in streamed.text
    assert "[DONE]" not in streamed.text
    _wait_until_idle(models)


def test_a_client_that_does_not_read_is_left(monkeypatch):
    """His connection, and all that waits to be sent on it, would stay for ever."""
    monkeypatch.setattr(answering, "LAST_SECONDS", 0.05)
    running = _Running()
    asked = requests.CompletionRequest(model="a", prompt="a", stream=True)
    stream = answering.Stream(answering.Shape(asked), running, with_usage=False)

    async def never(*_):
        await asyncio.Event().wait()

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    asyncio.run(asyncio.wait_for(stream(scope, never, never), 10))
    assert running.is_closed


class _Running:
    seconds_left = 0.0
    is_closed = False

    def close(self):
        self.is_closed = True


def test_more_than_the_queue_holds_is_told_429(url, post, models):
    """With what OpenAI's clients wait by before they try again."""
    asked = {**GOOD, "max_tokens": 40, "n": 70, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked) as made:
        lines = made.iter_lines()
        next(lines)
        response = post("/v1/completions", {**GOOD, "n": 60})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert _problem(response)["type"] == "rate_limit_error"
    _wait_until_idle(models)


def test_clients_that_go_free_their_slots(url, models):
    """Left to be written for nobody, their texts would hold up all who stay."""
    scheduler = models["packaged"].scheduler
    asked = {**GOOD, "max_tokens": 40, "n": 70}
    before = _written(url)
    streamed = {**asked, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=streamed) as made:
        lines = made.iter_lines()
        next(lines)
        assert scheduler.running == 4
        assert scheduler.waiting > 40
    _wait_until_idle(models, seconds=2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json=asked, timeout=0.3)
    _wait_until_idle(models, seconds=2)
    assert scheduler.failure is None
    assert 0 < _written(url) - before < 70 * 40


def _written(url):
    """Tokens that the packaged model has written so far."""
    page = httpx.get(f"{url}/metrics").text
    name = 'gptjax_generated_tokens_total{model="packaged"}'
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def _wait_until_idle(models, seconds=10):
    scheduler = models["packaged"].scheduler
    ends = time.monotonic() + seconds
    while scheduler.running or scheduler.waiting:
        assert time.monotonic() < ends
        time.sleep(0.02)
