"""Labels, metrics, health, and the server's own description."""

import re

import httpx

from gptjax import serving


def test_classifiers_label_texts_and_words(post, models):
    """The same labels and chances as from Python."""
    texts = ["A fine day", "Sad"]
    found = post("/classify", {"model": "labels", "texts": texts, "task": "mood"})
    assert found.status_code == 200
    own = models["labels"].model.predict(texts, task="mood")
    for told, expected in zip(found.json()["results"], own, strict=True):
        assert told["label"] == expected.label
        assert told["probabilities"] == expected.probabilities
    found = post("/classify", {"model": "labels", "texts": texts, "task": "speech"})
    words = [[each["word"] for each in own] for own in found.json()["results"]]
    assert words == [["A", "fine", "day"], ["Sad"]]


def test_what_cannot_be_labelled_is_told(post):
    """Which model, which task, and that it is none."""
    for body, said in (
        ({"texts": ["a"]}, "model: say which: packaged, chat, labels"),
        ({"texts": ["a"], "model": "labels"}, "mood, speech; say which"),
        ({"texts": [""], "model": "labels", "task": "mood"}, "empty"),
        ({"texts": ["a"], "model": "packaged"}, "packaged: no classifier"),
        ({"texts": [], "model": "labels"}, "texts"),
    ):
        response = post("/classify", body)
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]
    assert post("/classify", {"texts": ["a"], "model": "none"}).status_code == 404


def test_metrics_count_what_was_done(models, serve):
    """Prometheus would draw any other numbers just as well."""
    url = serve({"packaged": models["packaged"]})
    body = {"model": "packaged", "prompt": [5, 6, 7], "n": 2, "max_tokens": 4}
    body |= {"seed": 1, "logit_bias": {"0": -100}}
    assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
    assert httpx.get(f"{url}/nowhere/1").status_code == 404
    page = httpx.get(f"{url}/metrics").text
    found = dict(re.findall(r"^(gptjax_\S+) (\S+)$", page, re.MULTILINE))
    own = '{model="packaged"}'
    assert float(found[f"gptjax_prompt_tokens_total{own}"]) == 3
    assert float(found[f"gptjax_generated_tokens_total{own}"]) == 8
    assert float(found[f"gptjax_first_token_seconds_count{own}"]) == 1
    assert float(found[f"gptjax_token_seconds_count{own}"]) == 6
    assert float(found[f"gptjax_queue_length{own}"]) == 0
    assert float(found[f"gptjax_slots_in_use{own}"]) == 0
    requests = "gptjax_requests_total"
    assert float(found[f'{requests}{{path="/v1/completions",status="200"}}']) == 1
    assert float(found[f'{requests}{{path="other",status="404"}}']) == 1


def test_health_tells_when_nothing_is_decoded(models, serve):
    """A process that lives and writes nothing is what health checks are for."""
    scheduler = _Failed()
    url = serve({"packaged": _served(models["packaged"], scheduler)})
    response = httpx.get(f"{url}/healthz")
    assert response.status_code == 503
    assert "packaged: decoding failed" in response.json()["error"]["message"]


class _Failed:
    failure = "decoding failed: XlaRuntimeError"
    waiting = running = 0


def _served(served, scheduler):
    fields = {name: getattr(served, name) for name in served.__dataclass_fields__}
    return serving.Served(**{**fields, "scheduler": scheduler})
