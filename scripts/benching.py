"""What the benchmarks of this folder share: turns, spreads, the machine, the file."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.progress

from gptjax import assets, convert, files, model
from gptjax.convert import hf_config
from gptjax.training import environment

Figures = dict[str, Any]
SHAPES = ("packaged", *sorted(assets.shapes()))
"""The models that benchmarks know by name; all but the packaged one are random."""


def parser(doc: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes.

    Args:
      doc: of the script; its first line is the help's.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--quick", action="store_true", help="a rough idea in seconds")
    made.add_argument("--out", type=pathlib.Path, help="a JSON file of the figures")
    return made


def shape(name: str) -> model.Config:
    """The config of a model of `SHAPES`."""
    if name == "packaged":
        return convert.read_config(assets.checkpoint())
    return hf_config.parse(hf_config.read_json(assets.shapes()[name]), where=name)


def torch_device() -> str:
    """Where PyTorch is to run: on a GPU if JAX does, and on no other machine than it.

    Raises:
      SystemExit: JAX has an accelerator that this PyTorch has not.
    """
    import torch

    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu"
    if backend == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise SystemExit(
        f"JAX has a {backend} here and PyTorch has not: install PyTorch for it, or set "
        "JAX_PLATFORMS=cpu to compare both on the CPU"
    )


def in_turn(
    runs: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds that each run takes, round by round, after one that is not counted.

    Rivals take turns, so that a machine whose speed drifts is as fast for each.

    Args:
      runs: name -> what is timed; it returns when its work is done.
    """
    return {
        name: [seconds for seconds, _ in found]
        for name, found in results_in_turn(runs, rounds=rounds).items()
    }


def results_in_turn(
    runs: Mapping[str, Callable[[], Any]], *, rounds: int
) -> dict[str, list[tuple[float, Any]]]:
    """`in_turn`, and with the seconds what each run returned."""
    found: dict[str, list[tuple[float, Any]]] = {name: [] for name in runs}
    console = rich.console.Console(stderr=True)
    for number in rich.progress.track(
        range(rounds + 1), "rounds", console=console, transient=True
    ):
        for name, run in runs.items():
            began = time.perf_counter()
            result = run()
            if number:
                found[name].append((time.perf_counter() - began, result))
    return found


def first_call(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a first call, which compiles, and what it returned."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def set_best_threads(run: Callable[[], object]) -> int:
    """Lets PyTorch use a thread a core or one, whichever makes `run` quicker; how many.

    Its threads wait for each other after every operation: small ones, or cores that
    something else wants too, are quicker without.
    """
    import torch

    seconds = {}
    for threads in {len(os.sched_getaffinity(0)), 1}:
        torch.set_num_threads(threads)
        run()
        seconds[threads], _ = first_call(run)
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return best


def alone(script: str, *arguments: object, **variables: str) -> Any:
    """What a process of its own shows: the JSON of its last line.

    Args:
      script: the file, run with `arguments`.
      variables: of its environment, beside this process's own.
    """
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return json.loads(done.stdout.splitlines()[-1])


def show(figures: Figures) -> None:
    """Prints figures as JSON, for a process that measures for another one."""
    print(json.dumps(figures), flush=True)


def spread(values: Sequence[float]) -> Figures:
    """The median of what was measured, the least and the most."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> Figures:
    """The spread of the ratio that two rivals have in each round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def text(figures: Figures, *, digits: int = 2) -> str:
    """A spread in words."""
    median, least, most = (
        f"{figures[name]:,.{digits}f}" for name in ("median", "least", "most")
    )
    return f"{median} ({least} to {most})"


def machine() -> Figures:
    """Where the figures were taken; they mean little without it."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": environment.processor(),
        "jax": jax.__version__,
        "load": os.getloadavg()[0],
    }


def write(path: pathlib.Path | None, figures: Figures) -> None:
    """Writes the figures and the machine they are of, as JSON."""
    if path is not None:
        files.write_json(path, {"machine": machine(), **figures})
        print(f"written: {path}")


def conclude(
    path: pathlib.Path | None, figures: Figures, *, ratios: Mapping[str, Figures]
) -> None:
    """Writes the figures with their ratios, and prints the ratios, the main one last.

    Args:
      figures: with the name of the `benchmark`.
      ratios: `what it is of above / below` -> its spread, as `gptjax report` reads it.
    """
    write(path, {**figures, "ratios": dict(ratios)})
    for name, found in ratios.items():
        print(f"{name}: {text(found, digits=2 if found['median'] >= 0.1 else 4)}")
