"""What a run folder says of its run: rounds, summary, metrics."""

import dataclasses
import json
import pathlib
from typing import Any

import omegaconf

from gptjax import config, errors
from gptjax.pruning import plan


@dataclasses.dataclass(frozen=True)
class Run:
    """The records of a run, whole or still under way.

    Attributes:
      rounds: what each `rounds/NN/report.json` holds, by rising number; empty for a
        run that only trains.
      summary: what `summary.json` holds; empty before there is one.
      metrics: the lines of `metrics.jsonl`, each with `phase` and `step`.
      criterion: what pruned the weights, as the run's config calls it.
      samples: for each prompt, what models went on with, by the name of the moment:
        `start`, a round's or `end`.
      planned: how many rounds there will be; None for a run that only trains, and
        where it is not known.
    """

    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    criterion: str
    samples: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)
    planned: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return "end" in self.summary

    @property
    def lacks(self) -> str:
        """What a run is not, in short: `not finished`, or `not concluded`, as a trial
        whose rounds are all done; empty for one that is whole."""
        if self.is_finished:
            return ""
        is_done = self.planned is not None and len(self.rounds) >= self.planned
        return "not concluded" if is_done else "not finished"

    @property
    def savings(self) -> dict[str, Any]:
        """What was measured at the run's end, and where the zeros are; empty before."""
        measured = self.summary.get("savings")
        if not measured:
            return {}
        layers = self.rounds[-1].get("sparsity_per_layer") if self.rounds else None
        cut = self.summary.get("structured")
        return {"sparsity_per_layer": layers, "structured": cut, **measured}


def read(folder: str | pathlib.Path) -> Run:
    """The records of the run in `folder`.

    Raises:
      UserError: if nothing of a run is there, or a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    if (folder / config.STUDY_LOCK).exists():
        raise errors.UserError(
            f"{folder}: a search, of which `gptjax tune` draws the page; report its "
            f"trials, {folder}/trials/NNNN"
        )
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
        samples=_samples(folder / "samples.json"),
        planned=_planned(folder / "config.yaml"),
    )


def _planned(path: pathlib.Path) -> int | None:
    if not path.exists():
        return None
    try:
        settings = config.load(path)
    except errors.UserError:
        return None  # another version's
    return None if settings.pruning is None else plan.phases(settings)


def read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise errors.UserError(f"{path}: not JSON: {error}") from error


def _samples(path: pathlib.Path) -> list[tuple[str, dict[str, str]]]:
    if not path.exists():
        return []
    found = read_object(path)
    return [
        (prompt, {when: texts[place] for when, texts in found["texts"].items()})
        for place, prompt in enumerate(found["prompts"])
    ]


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
