"""The trackers that a config names: checked before the run, and never in its way."""

import importlib.util
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Protocol

from gptjax import config, errors, files
from gptjax.training.trackers import mlflow, trackio, wandb

NAME = "trackers.json"
"""Of the file in a run folder: the run's id in each tracker, to go on there."""


class Tracker(Protocol):
    """One tracker's run, begun or gone on with.

    Attributes:
      id: what the tracker knows the run by.
    """

    id: str

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Sends values of a step, each under `phase/name`."""

    def close(self) -> None:
        """Says that the run, or a part of it, is done."""


_OPEN: dict[str, Callable[[config.Run, str | None], Tracker]] = {
    "wandb": wandb.Wandb,
    "mlflow": mlflow.Mlflow,
    "trackio": trackio.Trackio,
}


def check(logging: config.Logging) -> None:
    """Raises a `UserError` for a tracker whose package is not installed."""
    for name in logging.to:
        if not _is_installed(name):
            raise errors.UserError(
                f'logging.to: {name} is not installed; pip install "gptjax[{name}]"'
            )


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


class Trackers:
    """All trackers of a run. One that fails is told of once and left alone.

    They begin with the first values, in the process that has them.
    """

    def __init__(self, settings: config.Run, folder: pathlib.Path):
        self._settings, self._path = settings, folder / NAME
        self._open: dict[str, Tracker] | None = None
        self._resumed: set[str] = set()

    def write(
        self, phase: str, step: int, values: dict[str, float], *, is_again: bool = False
    ) -> None:
        """Sends values of a step to all.

        Args:
          is_again: whether they were sent before the run was interrupted. Trackers
            cannot forget: only those that are new to the run get them.
        """
        if self._open is None:
            self._open = {}
            for name in self._settings.logging.to:
                self._guard(name, self._begin, name)
        for name, tracker in list(self._open.items()):
            if not (is_again and name in self._resumed):
                self._guard(name, tracker.write, phase, step, values)

    def close(self) -> None:
        """Lets all know that nothing more comes."""
        for name, tracker in list((self._open or {}).items()):
            self._guard(name, tracker.close)
        self._open = None

    def _begin(self, name: str) -> None:
        known = {}
        if self._path.exists():
            known = json.loads(self._path.read_text(encoding="utf-8"))
        if name in known:
            self._resumed.add(name)
        tracker = _OPEN[name](self._settings, known.get(name))
        files.write_json(self._path, {**known, name: tracker.id})
        assert self._open is not None
        self._open[name] = tracker

    def _guard(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        """Whatever fails, the run goes on: it is worth more than what is told of it."""
        try:
            action(*arguments)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(
                f"gptjax: logging.to: {name} failed and gets nothing more: {reason}",
                file=sys.stderr,
                flush=True,
            )
            assert self._open is not None
            self._open.pop(name, None)
