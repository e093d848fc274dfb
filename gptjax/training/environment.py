"""What a run is made with: versions, the machine, the command, the git commit."""

import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

import jax

from gptjax import files

NAME = "environment.json"
"""Of the file in a run folder: a list, for a run that goes on elsewhere."""


def record(folder: pathlib.Path) -> None:
    """Writes down what a run starts with, or goes on with if that is something else."""
    path = folder / NAME
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    now = describe()
    last = {**told[-1], "started": now["started"]} if told else None
    if now != last:
        files.write_json(path, [*told, now])


def describe() -> dict[str, Any]:
    """The present process.

    Returns:
      started: the time in UTC. command: as it was typed.
      packages: versions of gptjax and all that it needs. python, platform: theirs.
      processor, cores: of the host. device, devices: their kind and number, of all
        `processes`.
      git: of gptjax's own checkout and of the working directory, where they are ones,
        the commit and whether tracked files differ from it.
    """
    name = pathlib.Path(sys.argv[0]).name
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [name.replace("__main__.py", "gptjax"), *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "packages": _packages(),
        "git": {
            "gptjax": _own_commit(),
            "directory": _commit(os.getcwd()),
        },
    }


def processor() -> str:
    """What the host's processor calls itself."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _packages() -> dict[str, str]:
    try:
        needed = importlib.metadata.requires("gptjax") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []  # run from a checkout that is not installed
    names = [re.match(r"[\w.-]+", each)[0] for each in needed if "extra ==" not in each]
    found = {}
    for name in sorted({*names, "gptjax", "jax", "jaxlib"}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _own_commit() -> dict[str, Any] | None:
    """Of gptjax's checkout; an installed copy may lie in somebody else's."""
    folder = str(pathlib.Path(__file__).parents[1])
    is_tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None
    return _commit(folder) if is_tracked else None


@functools.cache
def _commit(folder: str) -> dict[str, Any] | None:
    """What the process began with, though the checkout may change under it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": bool(changes)}


def _git(folder: str, *arguments: str) -> str | None:
    """What git says; None where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
