"""Structured pruning in rounds: score, cut, fine-tune, again.

Round 0 is the model as it comes and trains nothing. Every further round reads the
calibration text, cuts what scores lowest out of the model that the round before left,
and trains for `training.steps` (with 0 of them it only evaluates). Masks of an earlier
run are cut along and held.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from gptjax import (
    config,
    convert,
    files,
    masks,
    model,
    sharding,
    training,
)
from gptjax.pruning import (
    calibration,
    footprint,
    round_report,
    rounds,
    savings,
    tickets,
)
from gptjax.pruning.structured import choosing, plan, surgery
from gptjax.training import run as run_lib


def run(settings: config.Run) -> rounds.Pruned:
    """Cuts a model in rounds as its config says, or goes on where it was interrupted.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    with training.run_folder(settings) as folder:
        prepared = training.prepare(settings)
        context = _Context(
            prepared, plan.rounds(settings, prepared.model_config), folder
        )
        for this in context.planned:
            # A dimension that the mesh does not divide is told before anything else.
            sharding.param_shardings(prepared.mesh, model.shapes(this.after))
        _ = context.calibration_tokens  # so is a text too short
        trainer = context.trainer(0)
        summary = run_lib.start_summary(prepared, trainer)
        reports = [_begin(context, trainer, summary)]
        trainer.log.close()
        compilations = 0
        for this in context.planned:
            trainer = context.trainer(this.number)
            reports.append(_run_round(context, trainer, this))
            trainer.log.close()
            compilations += trainer.compilations
        if "savings" not in summary:
            summary = {**summary, **_conclude(context, trainer, reports)}
            run_lib.write_summary(prepared, summary)
    return rounds.Pruned(folder, folder / "export", reports, summary, compilations)


@dataclasses.dataclass(frozen=True)
class _Context:
    """What every round needs."""

    prepared: training.Prepared
    planned: tuple[plan.Round, ...]
    folder: pathlib.Path

    def config_of(self, number: int) -> model.Config:
        """The shape that round `number` ends with."""
        if number == 0:
            return self.prepared.model_config
        return self.planned[number - 1].after

    def trainer(self, number: int) -> training.Trainer:
        """A round's own Trainer: another shape is another program."""
        cut = dataclasses.replace(self.prepared, model_config=self.config_of(number))
        return cut.trainer(schedule_steps=self.prepared.settings.training.steps)

    def round_folder(self, number: int) -> pathlib.Path:
        return self.folder / "rounds" / f"{number:02d}"

    def load_params(self, number: int) -> Any:
        """The params that round `number` ended with, as many heads as it has."""
        folder = self.prepared.source
        if number:
            native = self.round_folder(number) / "native"
            folder = native if native.exists() else self.round_folder(number) / "model"
        return self.prepared.load_params(folder)

    @functools.cached_property
    def calibration_tokens(self) -> np.ndarray | None:
        """The calibration sequences (N, T); None where no round reads any."""
        if not any(choosing.needs_text(this) for this in self.planned):
            return None
        return calibration.sequences(self.prepared)

    @property
    def holds_masks(self) -> bool:
        """Whether weights are pruned that stay so."""
        assert self.prepared.settings.pruning is not None
        return self.prepared.settings.pruning.masks_from is not None

    def masks_path(self, number: int) -> pathlib.Path:
        return self.round_folder(number) / "masks.safetensors"

    def masks_of(self, number: int, trainer: training.Trainer) -> masks.Masks:
        """The masks of a finished or begun round; dense where none are held."""
        if not self.holds_masks:
            return trainer.dense_masks()
        return masks.load(self.masks_path(number), trainer.placed_shapes())


def _begin(
    context: _Context, trainer: training.Trainer, summary: dict[str, Any]
) -> dict[str, Any]:
    """Round 0: the model as it comes, under the masks that are held."""
    folder = context.round_folder(0)
    report_path = folder / "report.json"
    if report_path.exists():
        return json.loads(report_path.read_text(encoding="utf-8"))
    weight_masks, result = trainer.dense_masks(), summary["start"]
    if context.holds_masks:
        weight_masks = tickets.load(
            context.prepared.settings.pruning.masks_from,
            trainer.placed_shapes(),
            weight_masks,
        )
        masks.save(context.masks_path(0), weight_masks)
        params = masks.apply_in_place(context.load_params(0), weight_masks)
        result = run_lib.describe(trainer.evaluate(params))
    report = {
        **_figures(context, 0, trainer, weight_masks),
        **result,
        "method": {},
        "controls": {},
    }
    _write_report(context, 0, report)
    return report


def _run_round(
    context: _Context, trainer: training.Trainer, this: plan.Round
) -> dict[str, Any]:
    """Cuts and trains; the contents of the round's report."""
    folder = context.round_folder(this.number)
    report_path = folder / "report.json"
    if report_path.exists():
        return json.loads(report_path.read_text(encoding="utf-8"))
    method = _choose_once(context, trainer, this)
    kept = {what: np.asarray(keep) for what, keep in method["kept"].items()}
    weight_masks = context.masks_of(this.number, trainer)

    def load_params():
        before = context.load_params(this.number - 1)
        return surgery.cut(this.before, before, None, kept)[1]

    steps = context.prepared.settings.training.steps
    result = method["before_training"]
    if steps:
        state, trained = training.fit(
            trainer,
            training.Phase(name=this.name, start=0, end=steps, stream=this.number),
            load_params=load_params,
            weight_masks=weight_masks,
        )
        params, weight_masks = state.params, state.masks
        result = run_lib.describe(trained)
    else:
        params = masks.apply_in_place(load_params(), weight_masks)
    _save(context, this, folder, params)
    report = {
        **_figures(context, this.number, trainer, weight_masks),
        **result,
        "method": method,
        "controls": {},
    }
    _write_report(context, this.number, report)
    return report


def _choose_once(
    context: _Context, trainer: training.Trainer, this: plan.Round
) -> dict[str, Any]:
    """What stays, why, and what is left of the model before it trains: `method.json`.

    Written when the cut masks are, so that an interrupted round goes on with the same
    choice.
    """
    path = context.round_folder(this.number) / "method.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    before_trainer = context.trainer(this.number - 1)
    weight_masks = None
    params = context.load_params(this.number - 1)
    if context.holds_masks:
        weight_masks = context.masks_of(this.number - 1, before_trainer)
        params = masks.apply_in_place(params, weight_masks)
    reader = choosing.Reader(
        tokens_NT=context.calibration_tokens,
        batch_sequences=context.prepared.settings.calibration.batch_sequences,
        mesh=context.prepared.mesh,
    )
    with footprint.measured() as cost:
        choice = choosing.choose(this, params, reader)
    _, params, weight_masks = surgery.cut(
        this.before, params, weight_masks, choice.kept
    )
    if weight_masks is not None:
        masks.save(context.masks_path(this.number), weight_masks)
    method = {
        **dataclasses.asdict(cost),
        "what": this.removal.what,
        "by": None if this.removal.indices else this.removal.measure,
        "removed": this.drop,
        "kept": {what: keep.tolist() for what, keep in choice.kept.items()},
        "scores": choice.scores,
        "before_training": run_lib.describe(trainer.evaluate(params)),
    }
    if jax.process_index() == 0:
        files.write_json(path, method)
    sharding.sync(f"choice {this.name}")
    return method


def _save(
    context: _Context, this: plan.Round, folder: pathlib.Path, params: Any
) -> None:
    """The round's model as a Hugging Face folder; and as it is, where that differs."""
    source = context.prepared.source
    convert.save(folder / "model", this.after, params, like=source)
    if convert.padded_heads(this.after):
        convert.save_native(folder / "native", this.after, params, like=source)


def _figures(
    context: _Context,
    number: int,
    trainer: training.Trainer,
    weight_masks: masks.Masks,
) -> dict[str, Any]:
    """Sizes and shape of a round's model."""
    figures = round_report.sizes(trainer.shapes, weight_masks)
    return {
        "round": number,
        "target_sparsity": figures["sparsity"],
        **figures,
        "shape": round_report.shape(context.config_of(number)),
        "padding": convert.padding_note(context.config_of(number)),
    }


def _write_report(context: _Context, number: int, report: dict[str, Any]) -> None:
    if jax.process_index() == 0:
        files.write_json(context.round_folder(number) / "report.json", report)
        # The model is in its folder; what lies here was for resuming.
        phase = context.folder / "checkpoints" / f"{number:02d}"
        shutil.rmtree(phase, ignore_errors=True)
    sharding.sync(f"round {number:02d}")


def _conclude(
    context: _Context, trainer: training.Trainer, reports: list[dict[str, Any]]
) -> dict[str, Any]:
    """Exports the last round's model; its savings and samples for the summary."""
    prepared, last = context.prepared, reports[-1]
    number = last["round"]
    params = context.load_params(number)
    config_of_it = context.config_of(number)
    if convert.padded_heads(config_of_it):
        native = context.folder / "native"
        convert.save_native(native, config_of_it, params, like=prepared.source)
    convert.save(context.folder / "export", config_of_it, params, like=prepared.source)
    load_masks = functools.partial(context.masks_of, number, trainer)
    return {
        "end": {key: last[key] for key in ("perplexity", "loss", "protocol")},
        "structured": {
            "before": reports[0]["shape"],
            "after": last["shape"],
            "bytes_before": reports[0]["bytes_dense"],
            "bytes_after": last["bytes_dense"],
        },
        "savings": {
            **{key: last[key] for key in round_report.SAVED},
            "padding": last["padding"],
            **savings.measure(prepared, trainer, params, load_masks),
        },
        "samples": savings.samples(prepared, params, config=config_of_it),
    }
