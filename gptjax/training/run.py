"""`train`, and the summary that every kind of run writes."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax

from gptjax import config, errors, evaluation, files, sharding
from gptjax.training import samples
from gptjax.training.fit import fit
from gptjax.training.phase import OnEvaluation, Phase, ignore
from gptjax.training.prepare import Prepared, prepare
from gptjax.training.run_folder import run_folder
from gptjax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves.

    Attributes:
      folder: the run folder.
      export: the trained model as a Hugging Face folder; not there where transformers
        has no such model, and a gptjax folder beside it, `native`, is.
      summary: what `summary.json` holds.
    """

    folder: pathlib.Path
    export: pathlib.Path
    summary: dict[str, Any]


def describe(result: evaluation.Result | None) -> dict[str, Any] | None:
    """A result with its protocol, as it stands in the JSON of a run folder."""
    return None if result is None else result.to_json()


def start_summary(prepared: Prepared, trainer: Trainer) -> dict[str, Any]:
    """What is known before any training; measured once, then read from the folder."""
    path = prepared.folder / "summary.json"
    known = path.exists()
    # Or one process could find what another has just written, and go ahead of it.
    sharding.sync("summary sought")
    if known:
        return json.loads(path.read_text(encoding="utf-8"))
    start, is_measured = None, prepared.texts.valid is not None
    if is_measured or prepared.settings.evaluation.prompts:
        params = prepared.load_params()
        start = describe(trainer.evaluate(params)) if is_measured else None
        samples.write_samples(prepared, "start", trainer.model_config, params)
    summary = {
        "model": prepared.settings.model,
        "parameters": trainer.parameters(),
        "start": start,
    }
    write_summary(prepared, summary)
    return summary


def write_summary(prepared: Prepared, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, and returns when every process may read it."""
    if jax.process_index() == 0:
        files.write_json(prepared.folder / "summary.json", summary)
    sharding.sync("summary")


def train(settings: config.Run, *, on_evaluation: OnEvaluation = ignore) -> Trained:
    """Fine-tunes a model as its config says, or goes on where it was interrupted.

    Args:
      on_evaluation: called with every evaluation.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    with run_folder(settings) as folder, contextlib.ExitStack() as ending:
        prepared = prepare(settings)
        trainer = prepared.trainer(
            schedule_steps=settings.training.steps, on_evaluation=on_evaluation
        )
        ending.callback(trainer.log.close)
        if settings.distillation is not None and (
            settings.distillation.teacher == "dense"
        ):
            raise errors.UserError(
                "distillation.teacher: dense is what round 0 of a pruning run ends "
                "with; to train, name a model"
            )
        prepared.check_teacher(trainer)
        summary = start_summary(prepared, trainer)
        prepared.teach(trainer)
        load_params, adapter = prepared.load_params, trainer.adapter
        if adapter is not None:
            adapter.base = prepared.load_params()
            load_params = functools.partial(adapter.start, settings.seed)
        state, result = fit(
            trainer,
            Phase(name="train", start=0, end=settings.training.steps),
            load_params=load_params,
            weight_masks=trainer.dense_masks(),
        )
        whole = trainer.whole(state.params)
        prepared.export(folder / "export", whole)
        samples.write_samples(prepared, "end", trainer.model_config, whole)
        summary = {**summary, "end": describe(result)}
        if adapter is not None:
            prepared.export_adapter(folder / "adapter", state.params)
            summary["adapter"] = adapter.account(whole)
        write_summary(prepared, summary)
    return Trained(folder, folder / "export", summary)
