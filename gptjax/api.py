"""gptjax from Python: runs that are started, and what they leave."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax

from gptjax import config as config_lib
from gptjax import pruning, reporting, sharding, training, tuning
from gptjax.averaged import average as average
from gptjax.models import Model as Model
from gptjax.models import load as load


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: the run folder, which holds everything.
    """

    folder: pathlib.Path

    @functools.cached_property
    def model(self) -> Model:
        """The exported model."""
        return load(self.folder)

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: loss, learning rate, validation figures."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """Results before and after; for a pruning run, its savings."""
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    @functools.cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The report of each pruning round, the dense one first."""
        reports = sorted(self.folder.glob("rounds/*/report.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in reports]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
      folder: the run folder, which holds everything.
    """

    folder: pathlib.Path

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A dict of figures for each method, pattern, sparsity and seed."""
        return reporting.read_comparison(self.folder).rows

    @functools.cached_property
    def dense(self) -> dict[str, Any]:
        """The same figures of the model as it came."""
        return reporting.read_comparison(self.folder).dense


def train(config: str | pathlib.Path | None, **overrides: Any) -> Run:
    """Fine-tunes as a config file says; `**{"training.steps": 5}` overrides a key."""
    return run_training(config_lib.load(config, overrides))


def prune(config: str | pathlib.Path | None, **overrides: Any) -> Run:
    """Prunes as a config file says; `**{"pruning.scope": "layer"}` overrides a key."""
    return run_pruning(config_lib.load(config, overrides))


def compare(config: str | pathlib.Path | None, **overrides: Any) -> Comparison:
    """Compares methods as a config file says; `**{"seed": 1}` overrides a key."""
    return run_comparison(config_lib.load(config, overrides))


def curve(config: str | pathlib.Path | None, **overrides: Any) -> list[dict[str, Any]]:
    """Trains on more and more texts as a config file says; a row of figures a run."""
    return reporting.read_curve(run_curve(config_lib.load(config, overrides)))


def tune(config: str | pathlib.Path | None, **overrides: Any) -> tuning.Results:
    """Searches settings as a config file says; `**{"search.trials": 5}` overrides."""
    return run_search(config_lib.load(config, overrides))


def run_training(settings: config_lib.Run) -> Run:
    """Fine-tunes, and draws the report."""
    return _reported(training.train(settings).folder)


def run_pruning(settings: config_lib.Run) -> Run:
    """Prunes, and draws the report."""
    return _reported(pruning.run(settings).folder)


def run_comparison(settings: config_lib.Run) -> Comparison:
    """Compares, and draws the report."""
    folder = pruning.compare(settings, after_job=reporting.write_comparison)
    return Comparison(folder)


def run_curve(settings: config_lib.Run) -> pathlib.Path:
    """Trains the runs of a learning curve, and draws the report; their folder."""
    return training.learning_curve(settings, after_run=reporting.write_curve)


def run_search(settings: config_lib.Run) -> tuning.Results:
    """Searches settings, and draws the report."""
    return tuning.run(settings)


def _reported(folder: pathlib.Path) -> Run:
    """The run of a folder, its report drawn by one of the processes that share it."""
    if jax.process_index() == 0:
        reporting.write(folder)
    sharding.sync("report")
    return Run(folder)
