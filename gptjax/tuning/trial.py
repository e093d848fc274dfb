"""One trial: an ordinary run, stopped early where its evaluations say so."""

import dataclasses
import json
import math
import pathlib
import shutil
from typing import Any

import jax

from gptjax import config, errors, evaluation, pruning, training
from gptjax.pruning import plan, round_report
from gptjax.tuning import spaces
from gptjax.tuning import study as study_lib

# What goes of a trial that is not the best; how it was set and how it went stays.
_HEAVY = ("checkpoints", "export", "native", "adapter", "teacher", "profile")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
      value: what it is compared by; None where it has none.
      failure: why a run could not be made of its values; None where it could.
    """

    number: int
    value: float | None = None
    failure: str | None = None


def settings_of(
    study: study_lib.Study, values: dict[str, Any], out: pathlib.Path
) -> config.Run:
    """The config of a run with some values, and no search.

    Raises:
      UserError: values that do not go together.
    """
    own = study.settings.logging
    # Trackers would call the trials of all searches alike.
    name = f"{own.name or study.folder.resolve().name}-{out.name}"
    logging = own.model_copy(update={"name": name})
    alone = {"out": str(out), "tune": {}, "search": None, "logging": logging}
    return spaces.with_values(study.settings.model_copy(update=alone), values)


def measure_of(settings: config.Run) -> str:
    """What of a result trials are compared by, the lower the better."""
    return "loss" if settings.task.has_classifier else "perplexity"


def run(study: study_lib.Study, claimed: study_lib.Claimed) -> Ended:
    """Runs a claimed trial to its end, or on from where it was left, and tells it.

    Raises:
      Stopped: by a signal, with the state saved; the trial is still under way.
    """
    trial = claimed.trial
    try:
        ended = _run(study, claimed)
    except study_lib.library().TrialPruned as pruned:
        trial.set_user_attr("note", str(pruned))
        study.tell(trial, state="PRUNED")
        return Ended(trial.number)
    except errors.UserError as error:
        return _failed(study, trial, str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _failed(study, trial, "it does not fit into the memory of the device")
    study.tell(trial, ended.value, state="COMPLETE")
    return ended


def _failed(study: study_lib.Study, trial: Any, why: str) -> Ended:
    trial.set_user_attr("note", why)
    study.tell(trial, state="FAIL")
    return Ended(trial.number, failure=why)


def _run(study: study_lib.Study, claimed: study_lib.Claimed) -> Ended:
    """As `run`; raises optuna's TrialPruned for one that is stopped or diverges."""
    trial, pruned = claimed.trial, study_lib.library().TrialPruned
    settings = settings_of(study, claimed.values, claimed.folder)
    measure, told = measure_of(settings), set()

    def on_evaluation(
        phase: training.Phase, step: int, result: evaluation.Result
    ) -> None:
        is_control = "-" in phase.name
        if is_control:
            return
        value = result.figures()[measure]
        if not math.isfinite(value):
            raise pruned(f"diverged: {measure} {value} after step {step}")
        number = 0 if settings.pruning is None else int(phase.name)
        at = number * settings.training.steps + step - phase.start
        is_last = number + 1 == plan.phases(settings)
        if at in told or (is_last and step == phase.end):
            return  # early stopping has gone back to it, or this is the value itself
        told.add(at)
        if at not in claimed.reported:
            trial.report(value, at)
        if trial.should_prune():
            raise pruned(f"stopped after step {step} of {phase.name}")

    try:
        result = finish(settings, concludes=False, on_evaluation=on_evaluation)
    except errors.Diverged as error:
        raise pruned(f"diverged: {error}") from error
    value = result[measure]
    if not math.isfinite(value):
        raise pruned(f"diverged: {measure} {value}")
    trial.set_user_attr("protocol", result["protocol"])
    return Ended(trial.number, value)


def finish(
    settings: config.Run,
    *,
    concludes: bool,
    on_evaluation: training.OnEvaluation = training.ignore,
) -> dict[str, Any]:
    """Runs a run to its end, if it is not there yet; its result.

    Args:
      concludes: of a run that prunes, whether what it saves is measured, too.
    """
    if settings.pruning is None:
        return training.train(settings, on_evaluation=on_evaluation).summary["end"]
    done = pruning.run(settings, concludes=concludes, on_evaluation=on_evaluation)
    return done.rounds[-1]


def finished(settings: config.Run) -> dict[str, Any] | None:
    """The result of a run that is done; None of any other."""
    folder = pathlib.Path(settings.out)
    if settings.pruning is not None:
        return round_report.read(folder, plan.phases(settings) - 1)
    path = folder / "summary.json"
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("end")


def clear(folder: pathlib.Path) -> None:
    """Removes the weights from a trial's folder; how it went stays."""
    for name in _HEAVY:
        _remove(folder / name)
    for path in folder.glob("rounds/*/*"):
        if path.suffix != ".json":
            _remove(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
