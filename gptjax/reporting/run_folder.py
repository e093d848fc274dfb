"""What a run folder says of its run: rounds, summary, metrics."""

import dataclasses
import json
import pathlib
from typing import Any

import omegaconf

from gptjax import errors


@dataclasses.dataclass(frozen=True)
class Run:
    """The records of a run, whole or still under way.

    Attributes:
      rounds: what each `rounds/NN/report.json` holds, by rising number; empty for a
        run that only trains.
      summary: what `summary.json` holds; empty before there is one.
      metrics: the lines of `metrics.jsonl`, each with `phase` and `step`.
      criterion: what pruned the weights, as the run's config calls it.
    """

    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    criterion: str

    @property
    def savings(self) -> dict[str, Any]:
        """What was measured at the run's end, and where the zeros are; empty before."""
        measured = self.summary.get("savings")
        if not measured:
            return {}
        layers = self.rounds[-1].get("sparsity_per_layer") if self.rounds else None
        return {"sparsity_per_layer": layers, **measured}


def read(folder: str | pathlib.Path) -> Run:
    """The records of the run in `folder`.

    Raises:
      UserError: if nothing of a run is there, or a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    paths = sorted((folder / "rounds").glob("[0-9][0-9]*/report.json"))
    rounds = sorted((read_object(path) for path in paths), key=lambda r: r["round"])
    summary_path, metrics_path = folder / "summary.json", folder / "metrics.jsonl"
    if not (rounds or summary_path.exists() or metrics_path.exists()):
        raise errors.UserError(
            f"{folder}: no run folder: it has neither rounds/00/report.json nor "
            "summary.json nor metrics.jsonl"
        )
    return Run(
        rounds=rounds,
        summary=read_object(summary_path) if summary_path.exists() else {},
        metrics=_lines(metrics_path) if metrics_path.exists() else [],
        criterion=_criterion(folder / "config.yaml"),
    )


def read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise errors.UserError(f"{path}: not JSON: {error}") from error


def _criterion(path: pathlib.Path) -> str:
    """What chose the zeros, by a resolved config; magnitude where there is none."""
    pruning = {}
    if path.exists():
        pruning = (omegaconf.OmegaConf.load(path).get("pruning")) or {}
    if pruning.get("structured"):
        return "structured"
    if pruning.get("masks_from"):
        return "transferred"
    if pruning.get("schedule") in ("rigl", "set"):
        return pruning["schedule"]
    return pruning.get("criterion", "magnitude")


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines that are whole: a killed process leaves half of one at the end."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
