"""Whether the data keep up with the training step, and what tokenizing them costs.

    python scripts/bench_data.py [--out FILE]

In turns, each some rounds: batches from the token cache placed on the devices, the same
batches from one file of ids mapped into memory, and tokenization by one process and by
one for each core; then training steps of MODEL. Prints tokens per second and ratios,
each the median over the rounds with its spread, the data against the step last.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import benching
import jax
import numpy as np

from gptjax import (
    assets,
    chips,
    config,
    convert,
    data,
    model,
    sharding,
    training,
)
from gptjax.training import utilization

TOKENS = 256
SEQUENCES = 64
UTILIZATION = 0.4
"""Of an accelerator's peak: well-tuned training of small models reaches no more."""


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--model", default="packaged", help="whose steps are timed")
    parser.add_argument("--megabytes", type=int, default=100, help="of text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=200, help="in each round")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if given.quick:
        given.megabytes, given.rounds, given.batches, given.steps = 10, 2, 10, 3
    # One process is to be one core; by itself the tokenizer takes them all.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        speeds = {
            **_tokenization(folder, given),
            **_pipeline(folder, given),
            "training step": _steps(folder, given),
        }
    step = statistics.median(speeds["training step"])
    cache = statistics.median(speeds["cache"])
    figures = {
        "benchmark": "data",
        "workers": given.workers,
        "sequence_tokens": TOKENS,
        "batch_sequences": SEQUENCES,
        "model": given.model,
        "tokens_per_second": {
            name: benching.spread(taken) for name, taken in speeds.items()
        },
        "cache_over_computed_needs": _needs(cache),
    }
    for name, found in figures["tokens_per_second"].items():
        print(f"{name}: {benching.text(found, digits=0)} tokens/s")
    for name, ratio in figures["cache_over_computed_needs"].items():
        print(
            f"cache / what GPT-2 (124M) needs at {UTILIZATION:.0%} of {name}: {ratio}"
        )
    ratios = {
        f"tokens/s tokenization, {given.workers} processes / 1": benching.ratio(
            speeds["tokenization, all"], speeds["tokenization, 1"]
        ),
        "tokens/s cache / mapped file": benching.ratio(
            speeds["cache"], speeds["mapped file"]
        ),
        "tokens/s cache / training step": benching.spread(
            [each / step for each in speeds["cache"]]
        ),
    }
    benching.conclude(given.out, figures, ratios=ratios)


def _tokenization(folder: pathlib.Path, given: argparse.Namespace) -> dict:
    """Tokens per second of one process and of many, in turn; leaves a cache."""
    text = assets.text("austen.train").read_text(encoding="utf-8")
    paragraphs = [json.dumps({"text": part}) + "\n" for part in text.split("\n\n")]
    size = sum(map(len, paragraphs))
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(given.megabytes * 1_000_000 // size + 1):
            file.writelines(paragraphs)
    speeds = {"tokenization, 1": [], "tokenization, all": []}
    for _ in range(given.rounds):
        for name, workers in zip(speeds, (1, given.workers), strict=True):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            began = time.perf_counter()
            tokens = _tokens(folder, workers)
            speeds[name].append(len(tokens) / (time.perf_counter() - began))
    return speeds


def _pipeline(folder: pathlib.Path, given: argparse.Namespace) -> dict:
    """Tokens per second that come to the devices when nothing else is done."""
    cached = _tokens(folder, 1)
    np.asarray(cached.ids).tofile(folder / "ids.bin")
    mapped = data.Tokens(
        np.memmap(folder / "ids.bin", cached.ids.dtype, "r"),
        cached.document_starts,
        cached.bytes,
    )
    place = sharding.batch_sharding(sharding.make_mesh())
    speeds = {"cache": [], "mapped file": []}
    for seed in range(given.rounds):
        for name, tokens in zip(speeds, (cached, mapped), strict=True):
            batches = data.Batches(
                tokens,
                sequence_tokens=TOKENS,
                batch_sequences=SEQUENCES,
                accumulation_steps=1,
                seed=seed,
                respect_documents=False,
            )
            stream = data.prefetch(batches, place)
            next(stream)  # starts the thread
            began = time.perf_counter()
            for _ in range(given.batches):
                jax.block_until_ready(next(stream)[0])
            seconds = time.perf_counter() - began
            stream.close()
            speeds[name].append(given.batches * SEQUENCES * TOKENS / seconds)
    return speeds


def _steps(folder: pathlib.Path, given: argparse.Namespace) -> list[float]:
    """Tokens per second of training steps, but for those that compile."""
    settings = config.check(
        {
            "model": given.model,
            "out": str(folder / "run"),
            "data": {
                "train": str(folder / "train.jsonl"),
                "sequence_tokens": TOKENS,
                "cache_dir": str(folder / "cache"),
            },
            "training": {
                "steps": given.steps,
                "batch_sequences": SEQUENCES,
                "log_every_steps": 1,
            },
        }
    )
    run = training.train(settings)
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [json.loads(line).get("tokens_per_second") for line in lines]
    return [speed for speed in speeds if speed is not None][1:]


def _needs(speed: float) -> dict[str, float]:
    """`speed` over what eight of each accelerator read when they train well."""
    gpt = model.Config()
    flops = utilization.flops_per_token(
        gpt,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model.shapes(gpt))),
        sequence_tokens=1024,
    )
    return {
        f"8 x {chip.name}": round(
            speed * flops / (8 * UTILIZATION * chip.bf16_flops), 1
        )
        for chip in chips.CHIPS
    }


def _tokens(folder: pathlib.Path, workers: int) -> data.Tokens:
    return data.tokenize(
        config.Source(path=str(folder / "train.jsonl")),
        data.Tokenizer(convert.resolve("packaged")),
        append_eos=False,
        workers=workers,
        cache_dir=str(folder / "cache"),
        vocab_size=None,
        progress=False,
    )


if __name__ == "__main__":
    main()
