"""A server in a thread, with the packaged model and others."""

import shutil
import threading

import httpx
import jax
import pytest

from gptjax import assets, convert, model, serving

SLOTS = 4
QUEUE = 70
BODY_BYTES = 20_000


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The packaged model, the same with a chat template, and a classifier."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(assets.checkpoint(), folder / "chat")
    shutil.copy(assets.chat_template(), folder / "chat" / "chat_template.jinja")
    labels = (
        model.Classifier(name="mood", labels=("glad", "sad")),
        model.Classifier(name="speech", labels=("noun", "verb"), per_token=True),
    )
    config = model.Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=2048, n_positions=16,
        classifiers=labels,
    )  # fmt: skip
    params = model.init(jax.random.key(0), config)
    convert.save_native(folder / "labels", config, params, like=assets.checkpoint())
    sources = {"packaged": "packaged", "chat": folder / "chat"}
    sources["labels"] = folder / "labels"
    served = {
        name: serving.load(
            name, str(source), slots=SLOTS, context=64, longest_queue=QUEUE
        )
        for name, source in sources.items()
    }
    yield served
    for each in served.values():
        each.close()


@pytest.fixture(scope="session")
def serve():
    """A function (models, api_key=None, **limits) -> URL of a server that lives as
    long as the tests."""
    running = []

    def start(models, *, api_key=None, **limits):
        own = {"body_bytes": BODY_BYTES, "tokens": 40, "timeout_seconds": 120}
        own = serving.Limits(**{**own, "labelling": 2, **limits})
        app = serving.make(models, own, api_key=api_key)
        ready = threading.Event()
        server = serving.Server(app, grace_seconds=1, when_ready=ready.set)
        listening = serving.listen("127.0.0.1", 0)
        url = serving.url(listening)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        assert ready.wait(30)
        return url

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def url(models, serve):
    """Where the server is."""
    return serve(models)


@pytest.fixture
def post(url):
    """A function (path, body) -> response."""
    with httpx.Client(base_url=url, timeout=120) as client:
        yield lambda path, body: client.post(path, json=body)
