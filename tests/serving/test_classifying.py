"""Labels that take too long, or are for no one any more."""

import asyncio
import threading
import types

import pytest

from gptjax.serving import classifying, refusals

ASKED = types.SimpleNamespace(texts=["a"], task=None)


class _Served:
    """Of which labelling ends when it is let."""

    def __init__(self):
        self.goes_on = threading.Event()
        self.given_up = []

    def label(self, texts, task, given_up):
        self.given_up.append(given_up)
        assert self.goes_on.wait(10)
        return []


class _Request:
    """Of a client that goes when it is told to."""

    def __init__(self):
        self.leaves = asyncio.Event()

    async def receive(self):
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def _refused(made, served, request=None):
    with pytest.raises(refusals.Refusal) as found:
        await made.labels(request or _Request(), served, ASKED)
    return found.value.status


async def _until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


def test_a_thread_keeps_its_place_when_its_time_is_up():
    """It goes on, and others that were let in would wait behind it in vain."""

    async def ask():
        served = _Served()
        made = classifying.Classifying(most=1, timeout_seconds=0.05)
        assert await _refused(made, served) == 504
        assert await _refused(made, served) == 429
        assert [each.is_set() for each in served.given_up] == [True]
        served.goes_on.set()
        await _until(lambda: not made._threads)
        assert await made.labels(_Request(), served, ASKED) == []

    asyncio.run(ask())


def test_a_client_that_goes_is_noticed():
    """Who has not had his turn by then is not to have one."""

    async def ask():
        served, request = _Served(), _Request()
        made = classifying.Classifying(most=1, timeout_seconds=60)
        asking = asyncio.create_task(_refused(made, served, request))
        await _until(lambda: served.given_up)
        request.leaves.set()
        assert await asyncio.wait_for(asking, 10) == 499
        assert served.given_up[0].is_set()
        served.goes_on.set()

    asyncio.run(ask())


def test_who_has_given_up_gets_no_turn(models, monkeypatch):
    """The model would be busy for nobody."""
    served, given_up = models["labels"], threading.Event()
    monkeypatch.setattr(type(served.model), "predict", lambda *_, **__: ["labelled"])
    assert served.label(["a"], "mood", given_up) == ["labelled"]
    given_up.set()
    assert served.label(["a"], "mood", given_up) == []
