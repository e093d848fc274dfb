"""`gptjax tune`: one trial after the other, as many processes as there are."""

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Iterator

import jax

from gptjax import config, errors, files, sharding, training
from gptjax.reporting import page, web
from gptjax.tuning import confirming, pictures, spaces
from gptjax.tuning import results as results_lib
from gptjax.tuning import study as study_lib
from gptjax.tuning import trial as trial_lib

_PATIENCE = 3
"""So many trials that fail one after the other end a search."""


def run(settings: config.Run) -> results_lib.Results:
    """Searches as a config says, or goes on where it was interrupted.

    Others may search at the same time, with the same `out` and storage. Writes
    `trials.csv`, `best.yaml` and `report/` into the folder; the trials are run folders
    in `trials/`.

    Raises:
      UserError: for whatever the user can mend; the spaces are checked first.
      Stopped: by a signal, with the state saved.
    """
    if not settings.tune:
        raise errors.UserError("tune: missing; give keys, and what they may be")
    if jax.process_count() > 1:
        raise errors.UserError(
            "tune: a trial runs on one process; start the command once on each machine "
            "without joining them, and they share the study"
        )
    search = settings.search or config.Search()
    settings = settings.model_copy(update={"search": search})
    parameters = spaces.read(settings)
    study_lib.pruner_of(settings)
    study_lib.library()
    folder = files.make_folder(pathlib.Path(settings.out))
    with _stopping():
        study = _opened(settings, parameters)
        _say_start(study)
        try:
            _search(study)
        except errors.UserError:
            _forget_unbegun(study)
            raise
        confirmed, found = None, results_lib.read(study)
        # The last of several processes has all trials to choose from.
        if not found.are_under_way:
            _conclude(study, found)
            confirmed = confirming.confirm(study, found)
        with study_lib.locked(folder):
            results = results_lib.read(study)
            if confirmed is not None and results.best == found.best:
                results = dataclasses.replace(results, confirmed=confirmed.sentence())
            results_lib.write(study, results)
            with page.replacing(folder / "report") as beside:
                drawn = pictures.draw(study, results, beside)
                made = results_lib.made_page(results, drawn, folder)
                web.write(beside, "report", made, kicker="Search for settings")
    return results


def _opened(
    settings: config.Run, parameters: tuple[spaces.Parameter, ...]
) -> study_lib.Study:
    """The study of a folder, which is another's, or begins one."""
    folder = pathlib.Path(settings.out)
    path = folder / "config.yaml"
    with study_lib.locked(folder):
        is_new = not path.exists()
        training.check_same_run(path, settings, held=("tune", "search.storage"))
        try:
            study = study_lib.Study(settings, parameters)
        except errors.UserError:
            if is_new:
                path.unlink()
            raise
        training.environment.record(folder)
        return study


def _forget_unbegun(study: study_lib.Study) -> None:
    """Empties the folder of a search that came to nothing, for a mended config."""
    with study_lib.locked(study.folder):
        if all(row["state"] == "failed" for row in results_lib.read(study).rows):
            study.forget()


def _search(study: study_lib.Study) -> None:
    failed, began, ended = 0, time.monotonic(), 0
    while (claimed := study.next()) is not None:
        with claimed.lock:
            number = claimed.trial.number
            names = results_lib.short(list(claimed.values))
            values = map(results_lib.text, claimed.values.values())
            told = ", ".join(map(" ".join, zip(names, values, strict=True)))
            sharding.say(f"trial {number}: {told}")
            outcome = trial_lib.run(study, claimed)
        ended += 1
        # What its own values do not do, no others of the config could.
        failed = failed + 1 if outcome.failure else 0
        if failed == _PATIENCE or (outcome.failure and claimed.values == study.own):
            raise errors.UserError(f"trial {number}: {outcome.failure}")
        with study_lib.locked(study.folder):
            results = results_lib.read(study)
            _clear(study, results)
            results_lib.write(study, results)
        _say_outcome(study, results, number, (time.monotonic() - began) / ended)


def _clear(study: study_lib.Study, results: results_lib.Results) -> None:
    """Leaves the best trial's weights on disk, and those of trials under way."""
    if study.search.keep_trials == "all":
        return
    for row in results.rows:
        if row is not results.best and row["state"] != "under way":
            folder = study.trial_folder(row["trial"])
            lock = study_lib.claim(folder)
            if lock is None:
                continue  # another process measures or exports what it thinks the best
            with lock:
                trial_lib.clear(folder)


def _conclude(study: study_lib.Study, results: results_lib.Results) -> None:
    """Measures and exports what the best trial's pruning came to, once."""
    if results.best is None or study.settings.pruning is None:
        return
    folder = study.trial_folder(results.best["trial"])
    lock = study_lib.claim(folder)
    if lock is None:
        return
    with lock:
        settings = trial_lib.settings_of(study, results.best["values"], folder)
        trial_lib.finish(settings, concludes=True)


def _say_start(study: study_lib.Study) -> None:
    rows = results_lib.read(study).rows
    done = sum(row["state"] in ("done", "stopped") for row in rows)
    spread = "; ".join(_told(each) for each in study.parameters)
    sharding.say(f"searching {spread}; {done} of {study.search.trials} trials done")
    if study.own is None:
        sharding.say("the config's own values lie outside: no trial has them")


def _told(parameter: spaces.Parameter) -> str:
    space = parameter.space
    if space.choices is not None:
        return f"{parameter.key}, {len(space.choices)} choices"
    text = results_lib.text
    scale = ", evenly by its logarithm" if space.log else ""
    return f"{parameter.key} from {text(space.low)} to {text(space.high)}{scale}"


def _say_outcome(
    study: study_lib.Study, results: results_lib.Results, number: int, seconds: float
) -> None:
    row = next(row for row in results.rows if row["trial"] == number)
    told = row["note"] or row["state"]
    if row["value"] is not None:
        told = f"{results.measure} {row['value']:.3f}"
    best = ""
    if results.best is not None:
        best = f"; best {results.best['value']:.3f}, trial {results.best['trial']}"
    ended = sum(row["state"] in ("done", "stopped") for row in results.rows)
    left = max(study.search.trials - ended, 0)
    minutes = left * seconds / 60
    sharding.say(
        f"trial {number}: {told}{best}; {ended} of {study.search.trials} done, "
        f"about {minutes:.0f} min left"
    )


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM and SIGINT end what is entered with `Stopped`, wherever it is.

    Training has a way of its own, which saves first; what lies between may break off
    anywhere, for the study is whole at any moment.
    """

    def stop(number, frame):
        del frame
        raise errors.Stopped(
            f"stopped by {signal.Signals(number).name} between two trials; the same "
            "command goes on from there",
            signal=number,
        )

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
