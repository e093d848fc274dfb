"""`gptjax curve`: how good a model becomes by how many texts it learns from."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gptjax import config, data, errors, files, sharding
from gptjax.training import run as run_lib
from gptjax.training.prepare import prepare
from gptjax.training.run_folder import run_folder

_MEASURED = ("accuracy", "f1", "loss", "protocol")


class Job(NamedTuple):
    """A run of a curve: its folder's name, what its row says of it, its config."""

    name: str
    row: dict[str, Any]
    settings: config.Run


def learning_curve(
    settings: config.Run, *, after_run: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """Trains as a config says on each number of texts, or goes on where it stopped.

    Each run is an ordinary one in `runs/`, which resumes by itself; what they have come
    to so far stands in `curve.json`, a row each.

    Args:
      after_run: called with the folder when a run's row is there, by the first of the
        processes that share it.

    Returns:
      The folder.

    Raises:
      UserError: for whatever the user can mend; texts are counted first.
      Stopped: by a signal, with the state saved.
    """
    if settings.curve is None:
        raise errors.UserError("curve: missing; give sizes, or `curve: {}` for all")
    with run_folder(settings) as folder:
        train = _texts(settings)
        planned = list(jobs(settings, len(train), fewest=len(train.strata)))
        results = {job.name: _finished(job) for job in planned}
        for place, job in enumerate(planned, 1):
            if results[job.name] is None:
                sharding.say(f"{place}/{len(planned)} {job.name}")
                results[job.name] = run_lib.train(job.settings).summary["end"]
            elif job is not planned[-1]:
                continue  # the table is drawn once, with all that are done
            if jax.process_index() == 0:
                rows = [row for job in planned for row in _rows(job, results[job.name])]
                files.write_json(folder / "curve.json", {"rows": rows})
                after_run(folder)
        sharding.sync("curve")
    return folder


def jobs(settings: config.Run, count: int, *, fewest: int = 1) -> Iterator[Job]:
    """The runs of a curve, from the fewest texts on.

    Args:
      count: how many texts `all` are.
      fewest: how many can show every label.

    Raises:
      UserError: more texts than there are, or `all` of them twice; too few.
    """
    assert settings.curve is not None
    wanted = {size: count if size == "all" else size for size in settings.curve.sizes}
    for size, texts in wanted.items():
        if texts > count:
            raise errors.UserError(
                f"curve.sizes: {size} texts; {settings.data.train.name} has {count:,}"
            )
        if texts < fewest:
            raise errors.UserError(
                f"curve.sizes: {size} texts cannot show {fewest} labels"
            )
        if size != "all" and texts == count and "all" in wanted:
            raise errors.UserError(
                f"curve.sizes: {size} texts are all of {settings.data.train.name}; "
                "leave one of the two out"
            )
    kinds = {"plain": None}
    if settings.data.augmentation is not None:
        kinds["augmented"] = settings.data.augmentation
    for size, texts in sorted(wanted.items(), key=lambda item: item[1]):
        for kind, augmentation in kinds.items():
            for seed in settings.curve.seeds:
                name = f"{size}-{kind}-seed-{seed}"
                limit = None if size == "all" else size
                parts = {"limit": limit, "augmentation": augmentation}
                changes = {
                    "out": str(pathlib.Path(settings.out) / "runs" / name),
                    "seed": seed,
                    "curve": None,
                    "data": settings.data.model_copy(update=parts),
                }
                row = {"texts": texts, "augmented": kind == "augmented", "seed": seed}
                yield Job(
                    name,
                    {**row, "run": f"runs/{name}"},
                    settings.model_copy(update=changes),
                )


def _texts(settings: config.Run) -> data.Examples:
    """All that there are to train on."""
    train = prepare(settings).texts.train
    assert isinstance(train, data.Examples)
    return train


def _rows(job: Job, result: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The row of a run, if it is done."""
    if result is None:
        return []
    return [{**job.row, **{key: result[key] for key in _MEASURED}}]


def _finished(job: Job) -> dict[str, Any] | None:
    """What a run came to that is done; None of any other."""
    path = pathlib.Path(job.settings.out) / "summary.json"
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("end")
