"""Structured pruning in rounds: score, cut, fine-tune, again.

Round 0 is the model as it comes and trains nothing. Every further round reads the
calibration text, cuts what scores lowest out of the model that the round before left,
and trains for `training.steps` (with 0 of them it only evaluates). Masks of an earlier
run are cut along and held.
"""

import contextlib
import dataclasses
import json
from typing import Any

import jax
import numpy as np

from gptjax import config, convert, files, masks, model, sharding, training
from gptjax.convert import zipped
from gptjax.pruning import footprint, round_report, rounds, savings, tickets, timing
from gptjax.pruning.structured import choosing, plan, surgery
from gptjax.pruning.structured.context import Context
from gptjax.training import run as run_lib


def run(
    settings: config.Run,
    *,
    measures_all: bool = False,
    concludes: bool = True,
    on_evaluation: training.OnEvaluation = training.ignore,
) -> rounds.Pruned:
    """Cuts a model in rounds as its config says, or goes on where it was interrupted.

    Args:
      measures_all, concludes, on_evaluation: as for `rounds.run`.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    with training.run_folder(settings) as folder:
        prepared = training.prepare(settings)
        context = Context(
            prepared,
            plan.rounds(settings, prepared.model_config),
            folder,
            on_evaluation,
        )
        for this in context.planned:
            # A dimension that the mesh does not divide is told before anything else.
            sharding.param_shardings(prepared.mesh, model.shapes(this.after))
        _ = context.calibration_tokens  # so is a text too short
        if settings.distillation is not None:
            for this in context.planned:
                prepared.check_teacher(context.trainer(this.number))
        trainer = context.trainer(0)
        with contextlib.closing(trainer.log):
            summary = run_lib.start_summary(prepared, trainer)
            reports = [_begin(context, trainer, summary)]
        compilations = 0
        for this in context.planned:
            trainer = context.trainer(this.number)
            zips = measures_all or this is context.planned[-1]
            with contextlib.closing(trainer.log):
                reports.append(_run_round(context, trainer, this, zips=zips))
            compilations += trainer.compilations
        if concludes and "savings" not in summary:
            timed = context.planned if measures_all else context.planned[-1:]
            summary = {**summary, **_conclude(context, trainer, reports, timed)}
            run_lib.write_summary(prepared, summary)
    return rounds.Pruned(folder, folder / "export", reports, summary, compilations)


def _begin(
    context: Context, trainer: training.Trainer, summary: dict[str, Any]
) -> dict[str, Any]:
    """Round 0: the model as it comes, under the masks that are held."""
    done = round_report.read(context.folder, 0)
    if done is not None:
        return done
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
    report = _report(context, 0, trainer, weight_masks) | result
    round_report.write(context.folder, report)
    return report


def _run_round(
    context: Context, trainer: training.Trainer, this: plan.Round, *, zips: bool
) -> dict[str, Any]:
    """Cuts and trains; the contents of the round's report.

    Args:
      zips: whether the model's zipped bytes are measured too.
    """
    done = round_report.read(context.folder, this.number)
    if done is not None:
        return done
    method = _choose_once(context, trainer, this)
    kept = {what: np.asarray(keep) for what, keep in method["kept"].items()}
    weight_masks = context.masks_of(this.number, trainer)

    def load_params():
        before = context.load_params(this.number - 1)
        return surgery.cut(this.before, before, None, kept)[1]

    steps = context.prepared.settings.training.steps
    result = method["before_training"]
    if steps:
        context.prepared.teach(trainer, context.prepared.source)
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
    folder = context.round_folder(this.number)
    context.export(this.number, params, folder / "model")
    training.write_samples(context.prepared, this.name, this.after, params)
    report = {
        **_report(context, this.number, trainer, weight_masks),
        **result,
        "method": method,
    }
    if zips:
        report["bytes_zipped"] = zipped.weights_bytes(this.after, params)
    round_report.write(context.folder, report)
    return report


def _choose_once(
    context: Context, trainer: training.Trainer, this: plan.Round
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
    choosing.tell_memory(this, params, reader)
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


def _report(
    context: Context,
    number: int,
    trainer: training.Trainer,
    weight_masks: masks.Masks,
) -> dict[str, Any]:
    """What a round's report says of its model's sizes and shape."""
    figures = round_report.sizes(trainer.shapes, weight_masks)
    return {
        "round": number,
        "target_sparsity": figures["sparsity"],
        **figures,
        "shape": round_report.shape(context.config_of(number)),
        "padding": convert.padding_note(context.config_of(number)),
        "method": {},
        "controls": {},
    }


def _conclude(
    context: Context,
    trainer: training.Trainer,
    reports: list[dict[str, Any]],
    timed: tuple[plan.Round, ...],
) -> dict[str, Any]:
    """Exports the last round's model; what the summary says of it.

    Args:
      timed: the rounds whose times are measured, the last one last.
    """
    last = reports[-1]
    params = context.load_params(last["round"])
    context.export(last["round"], params, context.folder / "export")
    models = [
        timing.Variant(
            name=this.name,
            config=this.after,
            masks_path=context.masks_path(this.number) if context.holds_masks else None,
        )
        for this in reversed(timed)
    ]
    found = savings.conclude(context.prepared, trainer, last, models)
    found["savings"]["padding"] = last["padding"]
    found["structured"] = {
        "before": reports[0]["shape"],
        "after": last["shape"],
        "bytes_before": reports[0]["bytes_dense"],
        "bytes_after": last["bytes_dense"],
    }
    return found
