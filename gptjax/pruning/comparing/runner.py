"""`gptjax compare`: every job in turn, its rows written as it ends."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gptjax import config, errors, files, sharding, training
from gptjax.pruning import rounds, runs
from gptjax.pruning.comparing import jobs as jobs_lib


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
    if settings.data.valid is None:
        raise errors.UserError("data.valid: missing; rows are compared by perplexity")
    planned = jobs_lib.planned(settings)
    with training.run_folder(settings) as folder:
        number = 0
        for place, job in enumerate(planned, 1):
            _say(f"{place}/{len(planned)} {job.name}")
            done = runs.run(job.settings)
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
        # Times and zipped bytes are measured on a run's last round only.
        is_last = report is done.rounds[-1]
        row = _row(job, report, done.summary["savings"] if is_last else {})
        if job.pattern == jobs_lib.REMOVED:
            # The share of all weights that is gone or zero.
            left = report["parameters"] - report["zeros"]
            gone = 1 - left / done.rounds[0]["parameters"]
            row |= {"sparsity": gone, "target_sparsity": gone}
        yield row
        for kind, control in report["controls"].items():
            unknown = dict.fromkeys(
                key for key in row if key.startswith(("step", "decode", "method_"))
            )
            own = {key: control[key] for key in ("perplexity", "loss", "protocol")}
            name = f"{job.method}, {kind}"
            yield row | unknown | own | {"method": name, "bytes_zipped": None}


def _row(
    job: jobs_lib.Job, report: dict[str, Any], savings: dict[str, Any]
) -> dict[str, Any]:
    method = report.get("method", {})
    # What was cut out is timed as `removed`, what is only masked as `pruned`.
    kind = "removed" if job.pattern == jobs_lib.REMOVED else "pruned"
    return {
        "method": job.method,
        "pattern": job.pattern,
        "sparsity": report["sparsity"],
        "target_sparsity": report["target_sparsity"],
        "seed": job.seed,
        "perplexity": report["perplexity"],
        "loss": report["loss"],
        "protocol": report["protocol"],
        "parameters": report["parameters"],
        "bytes_dense": report["bytes_dense"],
        "bytes_packed": report["bytes_packed"],
        "bytes_zipped": savings.get("bytes_zipped"),
        "step_seconds": savings.get(f"step_seconds_{kind}"),
        "step_ratio": _over_dense(savings, f"step_seconds_{kind}"),
        "decode_seconds": savings.get(f"decode_seconds_{kind}"),
        "decode_ratio": _over_dense(savings, f"decode_seconds_{kind}"),
        "method_seconds": method.get("seconds"),
        "method_peak_bytes": method.get("peak_bytes"),
        "run": f"runs/{job.name}",
        "round": report["round"],
    }


def _over_dense(savings: dict[str, Any], key: str) -> float | None:
    if key not in savings:
        return None
    what = key.split("_")[0]
    return savings[key] / savings[f"{what}_seconds_dense"]


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


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
