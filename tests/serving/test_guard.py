"""What stands before the routes: keys in any letters, names, other protocols."""

import asyncio

import pytest

from gptjax.serving import guard


class _Counter:
    def labels(self, *_):
        return self

    def inc(self):
        pass


class _Metrics:
    requests = _Counter()


def _sent(scope, **options):
    """What a client is sent by a guard of an application that says 200."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    own = {"api_key": None, "most_bytes": 9, "is_private": False, **options}
    made = guard.Guard(app, metrics=_Metrics(), paths=(), **own)
    scope = {"type": "http", "path": "/v1/models", "headers": [], **scope}
    asyncio.run(made(scope, None, send))
    return sent


def _status(headers, **options):
    return _sent({"headers": headers}, **options)[0]["status"]


@pytest.mark.parametrize("key", ["s3cret", "clé-à", "key\x85"])
def test_a_key_may_be_of_any_letters(key):
    """Parts of some are white space to Python, and none of HTTP's."""
    for given, status in ((key, 200), (f" {key}\t", 200), (f"{key}x", 401)):
        header = [(b"authorization", b"Bearer " + given.encode())]
        assert _status(header, api_key=key) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_a_private_server_is_called_by_no_name_of_others(host, status):
    """A page's name may come to mean this machine (DNS rebinding); then the browser
    would let the page ask whatever it likes."""
    headers = [(b"host", host.encode())]
    assert _status(headers, is_private=True) == status
    assert _status(headers) == 200


def test_nothing_but_http_comes_through():
    """A key that is asked for of requests alone guards no socket."""
    assert _sent({"type": "websocket"}) == [{"type": "websocket.close"}]
