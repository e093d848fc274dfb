"""`gptjax compare`: every job in turn, its rows written as it ends."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gptjax import config, errors, files, sharding, training
from gptjax.pruning import round_report, rounds, runs
from gptjax.pruning.comparing import jobs as jobs_lib

# What a round's report and a control's both say of their own model.
_MEASURED = ("perplexity", "loss", "protocol", "bytes_zipped")


def run(
    settings: config.Run, *, after_job: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """Compares methods as a config says, or goes on where it was interrupted.

    Each job is a pruning run in `runs/`, which resumes by itself; each of its pruned
    rounds gives a row, `rows/NNN.json`. `compare.json` holds the dense model's figures.

    Args:
      after_job: called with the run folder when a job's rows are there, by the first
        of the processes that share it.

    Returns:
      The run folder.

    Raises:
      UserError: for whatever the user can mend; every config is checked first.
      Stopped: by a signal, with the state saved.
    """
    if settings.compare is None:
        raise errors.UserError("compare: missing; give the methods to be compared")
    if settings.pruning is not None:
        raise errors.UserError(
            "pruning: a comparison takes it from its methods; leave it out"
        )
    if settings.task.has_classifier:
        raise errors.UserError(
            f"task.kind: {settings.task.kind}; rows are compared by perplexity, which "
            "labels do not have"
        )
    if not settings.is_measured:
        raise errors.UserError("data.valid: missing; rows are compared by perplexity")
    planned = jobs_lib.planned(settings)
    with training.run_folder(settings) as folder:
        number = 0
        for place, job in enumerate(planned, 1):
            sharding.say(f"{place}/{len(planned)} {job.name}")
            done = runs.run(job.settings, measures_all=True)
            for row in _rows(job, done):
                _write(folder / "rows" / f"{number:03d}.json", row)
                number += 1
            if place == 1:
                _write(folder / "compare.json", {"dense": _dense(done)})
            if jax.process_index() == 0:
                after_job(folder)
        sharding.sync("compare")
    return folder


def _rows(job: jobs_lib.Job, done: rounds.Pruned) -> Iterator[dict[str, Any]]:
    """A line of the table for each pruned round, and one for each of its controls."""
    for report in done.rounds[1:]:
        row = _row(job, report) | _times(done, report["round"])
        if job.pattern == jobs_lib.REMOVED:
            # The share of all weights that is gone or zero.
            left = report["parameters"] - report["zeros"]
            gone = 1 - left / done.rounds[0]["parameters"]
            row |= {"sparsity": gone, "target_sparsity": gone}
        yield row
        for kind, control in report["controls"].items():
            yield {
                **row,
                **{key: control[key] for key in _MEASURED},
                **_times(done, report["round"], kind),
                "method": f"{job.method}, {kind}",
                "method_seconds": None,
                "method_peak_bytes": None,
            }


def _row(job: jobs_lib.Job, report: dict[str, Any]) -> dict[str, Any]:
    method = report.get("method", {})
    return {
        "method": job.method,
        "pattern": job.pattern,
        "sparsity": report["sparsity"],
        "target_sparsity": report["target_sparsity"],
        "seed": job.seed,
        **{key: report[key] for key in _MEASURED},
        "parameters": report["parameters"],
        "bytes_dense": report["bytes_dense"],
        "bytes_packed": report["bytes_packed"],
        "method_seconds": method.get("seconds"),
        "method_peak_bytes": method.get("peak_bytes"),
        "run": f"runs/{job.name}",
        "round": report["round"],
    }


def _times(
    done: rounds.Pruned, number: int, control: str | None = None
) -> dict[str, float]:
    """Seconds of a round's model or a control's, and their ratio to the dense one's."""
    savings = done.summary["savings"]
    own = savings["models"][round_report.name(number, control)]
    times = {}
    for what in ("step", "decode"):
        seconds = own[f"{what}_seconds"]
        times[f"{what}_seconds"] = seconds
        times[f"{what}_ratio"] = seconds / savings[f"{what}_seconds_dense"]
    return times


def _dense(done: rounds.Pruned) -> dict[str, Any]:
    """The model as it came."""
    first, savings = done.rounds[0], done.summary["savings"]
    return {
        **done.summary["start"],
        "parameters": first["parameters"],
        "bytes_dense": first["bytes_dense"],
        "bytes_zipped": savings["bytes_zipped_dense"],
        "step_seconds": savings["step_seconds_dense"],
        "decode_seconds": savings["decode_seconds_dense"],
    }


def _write(path: pathlib.Path, values: dict[str, Any]) -> None:
    if jax.process_index() == 0:
        files.write_json(path, values)
