"""What the benchmarks of this folder share: turns, spreads, the machine, the file."""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.progress

from gptjax import files

Figures = dict[str, Any]


def in_turn(
    runs: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds that each run takes, round by round, after one that is not counted.

    Rivals take turns, so that a machine whose speed drifts is as fast for each.

    Args:
      runs: name -> what is timed; it returns when its work is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in rich.progress.track(range(rounds + 1), "rounds", transient=True):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


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
        "processor": _processor(),
        "jax": jax.__version__,
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write(path: pathlib.Path | None, figures: Figures) -> None:
    """Writes the figures and the machine they are of, as JSON."""
    if path is not None:
        files.write_json(path, {"machine": machine(), **figures})
        print(f"written: {path}")


def show(figures: Figures) -> None:
    """Prints figures as JSON, for a process that measures for another one."""
    print(json.dumps(figures), flush=True)
