"""Clients of `gptjax serve` at once and one by one, beside a plain server.

    python scripts/bench_server.py [--clients 64] [--out FILE]

Each server is a process of its own with the packaged model. The rival is the least that
one would write: stock transformers' `generate` in PyTorch behind Starlette, one request
at a time. Clients wait for whole completions, drawn with seeds of their own, all of the
same number of tokens; the servers take turns. First both must give the same greedy
text, and gptjax each client at once what it gives it alone.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import benching
import httpx

from gptjax import assets

PROMPTS = ("It is a truth", "She had been", "The rest of the evening", "My dear")


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--alone", type=int, default=8, help="clients one by one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rival", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rival:
        serve_plainly()
        return
    if given.quick:
        given.clients, given.new, given.alone, given.rounds = 8, 16, 2, 2
    command = [sys.executable, "-m", "gptjax", "serve", "packaged", "--port=0"]
    rival = [sys.executable, __file__, "--rival"]
    with started(command) as ours, started(rival) as theirs:
        check(ours, theirs, given)
        seconds = benching.in_turn(
            {
                "gptjax, at once": lambda: ask(ours, given.clients, given.new),
                "gptjax, one by one": lambda: one_by_one(ours, given),
                "plain, at once": lambda: ask(theirs, given.alone, given.new),
                "plain, one by one": lambda: one_by_one(theirs, given),
            },
            rounds=given.rounds,
        )
    clients = dict.fromkeys(seconds, given.alone)
    clients["gptjax, at once"] = given.clients
    # Seconds of one client's tokens, for rivals that have written unlike many.
    each = {name: [s / clients[name] for s in own] for name, own in seconds.items()}
    speeds = {
        name: benching.spread([given.new / s for s in own])
        for name, own in each.items()
    }
    for name, speed in speeds.items():
        print(f"{name}: {benching.text(speed, digits=0)} tokens/s", flush=True)
    at_once = each["gptjax, at once"]
    benching.conclude(
        given.out,
        {
            "benchmark": "server",
            "clients": given.clients,
            "new": given.new,
            "tokens_per_second": speeds,
        },
        ratios={
            "tokens/s at once / one by one": benching.ratio(
                each["gptjax, one by one"], at_once
            ),
            "tokens/s one by one gptjax / plain server": benching.ratio(
                each["plain, one by one"], each["gptjax, one by one"]
            ),
            "tokens/s at once gptjax / plain server": benching.ratio(
                each["plain, at once"], at_once
            ),
        },
    )


def check(ours: str, theirs: str, given: argparse.Namespace) -> None:
    """Both write what they should, or there is nothing to compare."""
    greedy = {"temperature": 0, "prompt": PROMPTS[0], "max_tokens": given.new}
    texts = [asyncio.run(_answers(url, [greedy]))[0] for url in (ours, theirs)]
    if texts[0] != texts[1]:
        raise SystemExit(f"other greedy texts: {texts[0]!r} and {texts[1]!r}")
    asked = [_asked(number, given.new) for number in range(given.alone)]
    together = asyncio.run(_answers(ours, asked))
    if together != [asyncio.run(_answers(ours, [each]))[0] for each in asked]:
        raise SystemExit("at once clients get other texts than alone")


def ask(url: str, clients: int, new: int) -> list[str]:
    """So many clients at once."""
    return asyncio.run(
        _answers(url, [_asked(number, new) for number in range(clients)])
    )


def one_by_one(url: str, given: argparse.Namespace) -> None:
    """Clients, each after the one before it has its answer."""
    for number in range(given.alone):
        asyncio.run(_answers(url, [_asked(number, given.new)]))


def _asked(number: int, new: int) -> dict[str, Any]:
    prompt = PROMPTS[number % len(PROMPTS)]
    return {"prompt": prompt, "max_tokens": new, "seed": number, "temperature": 0.8}


async def _answers(url: str, bodies: list[dict[str, Any]]) -> list[str]:
    # The end of the text is forbidden: all are to write as much.
    same = {"model": "packaged", "top_k": 50, "logit_bias": {"0": -100}}
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits()) as client:
        answers = await asyncio.gather(
            *(
                client.post(f"{url}/v1/completions", json={**same, **body})
                for body in bodies
            )
        )
    for answer in answers:
        answer.raise_for_status()
    return [answer.json()["choices"][0]["text"] for answer in answers]


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[str]:
    """The URL of a server in a process of its own, which ends afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http" not in line:
            raise SystemExit(f"{' '.join(command)}: did not start")
        yield line.strip().rpartition(" ")[2]
    finally:
        process.terminate()
        process.wait()


def serve_plainly() -> None:
    """Stock transformers behind Starlette, one request at a time."""
    import starlette.applications
    import starlette.concurrency
    import starlette.requests
    import starlette.responses
    import starlette.routing
    import torch
    import transformers
    import uvicorn

    from gptjax import serving

    folder = assets.checkpoint()
    module = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    one = asyncio.Semaphore(1)

    def write(body: dict[str, Any]) -> str:
        ids = tokenizer(body["prompt"], return_tensors="pt")["input_ids"]
        how: dict[str, Any] = {"do_sample": False}
        if body["temperature"]:
            torch.manual_seed(body["seed"])
            how = {"do_sample": True, "top_k": body["top_k"]}
            how["temperature"] = body["temperature"]
        made = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=body["max_tokens"],
            suppress_tokens=[int(id_) for id_ in body["logit_bias"]],
            pad_token_id=0,
            **how,
        )
        return tokenizer.decode(made[0, ids.shape[1] :])

    async def complete(request: starlette.requests.Request):
        body = await request.json()
        async with one:
            text = await starlette.concurrency.run_in_threadpool(write, body)
        return starlette.responses.JSONResponse({"choices": [{"text": text}]})

    benching.set_best_threads(
        lambda: write(
            {"prompt": PROMPTS[0], "temperature": 0, "max_tokens": 32, "logit_bias": {}}
        )
    )
    route = starlette.routing.Route("/v1/completions", complete, methods=["POST"])
    listening = serving.listen("127.0.0.1", 0)
    print(f"plain: {serving.url(listening)}", flush=True)
    config = uvicorn.Config(
        starlette.applications.Starlette(routes=[route]), log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
