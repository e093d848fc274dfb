"""`gptjax serve`: its one line, its refusals, its end."""

import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest

from gptjax import cli


def test_a_port_in_use_and_names_given_twice_are_told_at_once(capfd):
    """Before models are loaded, which takes its time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "packaged", f"--port={port}"]) == 1
        told = capfd.readouterr().err
        assert told.startswith(f"gptjax: 127.0.0.1:{port}: cannot listen there")
        assert len(told.splitlines()) == 1
    assert cli.main(["serve", "a=packaged", "a=packaged", "--port=0"]) == 1
    assert "gptjax: a: given twice" in capfd.readouterr().err
    assert cli.main(["serve", "=packaged", "--port=0"]) == 1
    assert "write NAME=MODEL" in capfd.readouterr().err
    assert cli.main(["serve", "packaged", "--port=0", "--api-key="]) == 1
    assert "--api-key: is empty" in capfd.readouterr().err


def test_a_context_beyond_the_model_is_refused(capfd):
    """It would write where the model has no positions."""
    assert cli.main(["serve", "packaged", "--port=0", "--context=300"]) == 1
    assert "more than the n_positions 256" in capfd.readouterr().err


@pytest.fixture
def started():
    """A function (*arguments) -> a server's process and URL."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "gptjax", "serve", *arguments, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GPTJAX_API_KEY": "s3cret"},
        )
        processes.append(process)
        names, _, url = process.stdout.readline().strip().partition(": ")
        assert names == "packaged, other", process.stderr.read()
        return process, url

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_sigterm_lets_what_runs_end(started):
    """Deployments end servers every day; no answer may be cut for it."""
    process, url = started("packaged", "other=packaged", "--slots=2", "--context=128")
    finished = {}
    begun = threading.Barrier(5, timeout=60)

    def ask(number):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)
        model = ["packaged", "other"][number % 2]
        events = client.completions.create(
            model=model, prompt="It is", max_tokens=100, seed=number, stream=True,
            logit_bias={"0": -100},
        )  # fmt: skip
        text = ""
        for place, event in enumerate(events):
            if place == 1:
                begun.wait()
            text += event.choices[0].text
            finished[number] = event.choices[0].finish_reason, text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert not any(finish for finish, _ in finished.values())
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert process.wait(30) == 0
    assert {finish for finish, _ in finished.values()} == {"length"}
    assert len({text for _, text in finished.values()}) == 4
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    told = process.stderr.read().splitlines()
    assert told == [
        f"{name}: loading and compiling ..." for name in ("packaged", "other")
    ]
