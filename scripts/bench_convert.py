"""Hugging Face folder -> params -> Hugging Face folder, beside stock transformers.

    python scripts/bench_convert.py [--shape gpt2-medium] [--out FILE]

A model of random weights is read and written again, by gptjax into arrays of JAX and by
`from_pretrained` and `save_pretrained` into tensors of PyTorch, on the CPU, each time
in a process of its own, in turns. Seconds and peak memory, above what the process held
before, are told for each GB of weights.

PyTorch's weights stay in the mapped file, and come to memory of their own when they are
first written; `torch in memory` copies them there at once, as gptjax does.
"""

import argparse
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import benching
import jax

from gptjax import assets, convert, model
from gptjax.pruning import footprint

SECONDS = ("seconds per GB to read", "seconds per GB to write")
PEAK_TO_READ = "peak GB per GB to read"


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--shape", choices=benching.SHAPES, default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        benching.show(_convert(given.alone, given.folder))
        return
    if given.quick:
        given.shape, given.rounds = "packaged", 2
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        params = model.init(jax.random.key(0), benching.shape(given.shape))
        convert.save(
            folder / "source",
            benching.shape(given.shape),
            params,
            like=assets.checkpoint(),
        )
        gigabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9
        del params
        runs = {name: _alone(name, folder) for name in RIVALS}
        found = benching.results_in_turn(runs, rounds=given.rounds)
    rounds = {
        name: [_per_gigabyte(figures, gigabytes) for _, figures in results]
        for name, results in found.items()
    }
    figures = {
        name: {key: benching.spread([r[key] for r in own]) for key in own[0]}
        for name, own in rounds.items()
    }
    for name, own in figures.items():
        for key, spread in own.items():
            print(f"{name}, {key}: {benching.text(spread)}")
    # PyTorch writes from where the weights lie: there is no peak to compare with.
    ratios = {
        f"{key} gptjax / {rival}": benching.ratio(*_columns(rounds, rival, key))
        for rival in list(RIVALS)[:0:-1]
        for key in (PEAK_TO_READ, *SECONDS)
    }
    together = (
        [sum(own) for own in zip(*columns, strict=True)]
        for columns in zip(
            *(_columns(rounds, "torch", key) for key in SECONDS), strict=True
        )
    )
    ratios["conversion seconds gptjax / torch"] = benching.ratio(*together)
    benching.conclude(
        given.out,
        {
            "benchmark": "convert",
            "shape": given.shape,
            "gigabytes": gigabytes,
            **figures,
        },
        ratios=ratios,
    )


def _columns(
    rounds: dict[str, list[dict[str, float]]], rival: str, key: str
) -> tuple[list[float], list[float]]:
    """A figure in each round, of gptjax and of a rival."""
    ours, theirs = ([own[key] for own in rounds[name]] for name in ("gptjax", rival))
    return ours, theirs


def _alone(name: str, folder: pathlib.Path) -> Callable[[], Any]:
    return lambda: benching.alone(
        __file__, "--alone", name, "--folder", folder, JAX_PLATFORMS="cpu"
    )


def _per_gigabyte(figures: benching.Figures, gigabytes: float) -> dict[str, float]:
    return {
        f"{what} per GB to {verb}": figures[verb][key] / gigabytes / scale
        for verb in ("read", "write")
        for what, key, scale in (
            ("seconds", "seconds", 1),
            ("peak GB", "peak_bytes", 1e9),
        )
    }


def _convert(rival: str, folder: pathlib.Path) -> benching.Figures:
    """What it costs this process to read the model and to write it."""
    read, write = RIVALS[rival]()
    with footprint.measured() as reading:
        held = read(folder / "source")
    with footprint.measured() as writing:
        write(folder / rival, held)
    return {"read": vars(reading), "write": vars(writing)}


def _gptjax() -> tuple[Callable, Callable]:
    jax.block_until_ready(jax.numpy.zeros(1))  # JAX itself has started

    def write(folder, held):
        convert.save(folder, *held, like=assets.checkpoint())

    return convert.load, write


def _torch(*, copies: bool = False) -> tuple[Callable, Callable]:
    import transformers

    _ = transformers.GPT2LMHeadModel  # imported only now

    def read(folder):
        module = transformers.GPT2LMHeadModel.from_pretrained(folder)
        for weight in module.parameters():
            if copies:
                weight.data = weight.data.clone()
            else:
                weight.data.sum()  # reads what lies in the file alone as yet
        return module

    return read, lambda folder, module: module.save_pretrained(folder)


RIVALS = {
    "gptjax": _gptjax,
    "torch": _torch,
    "torch in memory": functools.partial(_torch, copies=True),
}


if __name__ == "__main__":
    main()
