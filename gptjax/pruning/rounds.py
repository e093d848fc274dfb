"""Pruning in rounds: train, prune, rewind, train again, with controls.

Iterative: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv:1803.03635;
Frankle et al., "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611;
Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020,
arXiv:2003.02389. The other schedules are one round each, after a dense one that does
not train.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

from gptjax import config, masks, training
from gptjax.convert import zipped
from gptjax.pruning import (
    choosing,
    control_runs,
    dynamic,
    plan,
    round_report,
    savings,
    timing,
)
from gptjax.pruning.context import Context
from gptjax.pruning.criteria import movement
from gptjax.training import run as run_lib


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What a pruning run leaves.

    Attributes:
      folder: the run folder.
      export: the last round's model as a Hugging Face folder.
      rounds: what each `rounds/NN/report.json` holds, the dense round first.
      summary: what `summary.json` holds.
      compilations: how often this process compiled the training step.
    """

    folder: pathlib.Path
    export: pathlib.Path
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    compilations: int


def run(
    settings: config.Run,
    *,
    measures_all: bool = False,
    concludes: bool = True,
    on_evaluation: training.OnEvaluation = training.ignore,
) -> Pruned:
    """Prunes a model in rounds as its config says, or goes on where it was interrupted.

    Round 0 is the dense model. Each further round chooses what of the weights that the
    one before left is to go, rewinds the others and trains them. A round is done when
    its `report.json` is there; its model lies beside it, as a Hugging Face folder.

    Args:
      measures_all: whether the zipped bytes of all rounds and controls are measured,
        and their times, and not those of the last round alone.
      concludes: whether the last model is exported and what it saves is measured; a
        run that was not concluded is, when it is started again.
      on_evaluation: called with every evaluation of a phase that trains.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    assert settings.pruning is not None
    with training.run_folder(settings) as folder, contextlib.ExitStack() as ending:
        planned = plan.rounds(settings)
        prepared = training.prepare(settings)
        trainer = prepared.trainer(
            schedule_steps=max(r.end for r in planned), on_evaluation=on_evaluation
        )
        ending.callback(trainer.log.close)
        context = Context(prepared, trainer, settings.pruning, folder)
        choosing.check(context)
        prepared.check_teacher(trainer)
        summary = run_lib.start_summary(prepared, trainer)
        reports = [
            _run_round(context, this, summary, zips=measures_all or this is planned[-1])
            for this in planned
        ]
        if concludes and "savings" not in summary:
            models = [v for r in reports[:0:-1] for v in _variants(context, r)]
            timed = models if measures_all else models[:1]
            summary = {**summary, **_conclude(context, reports[-1], timed)}
            run_lib.write_summary(prepared, summary)
    return Pruned(folder, folder / "export", reports, summary, trainer.compilations)


def _run_round(
    context: Context, this: plan.Round, summary: dict[str, Any], *, zips: bool
) -> dict[str, Any]:
    """Trains a round and its controls; the contents of its report.

    Args:
      zips: whether the zipped bytes of their models are measured too, which takes some
        seconds for each 100 MB.
    """
    done = round_report.read(context.folder, this.number)
    if done is not None:
        return done
    if this.number == 0 and this.start == this.end:
        figures = round_report.sizes(
            context.trainer.shapes, context.trainer.dense_masks()
        )
        result, method = summary["start"], {}
    else:
        figures, result = _train_round(context, this, zips=zips)
        method_path = context.round_folder(this.number) / "method.json"
        method = {}
        if method_path.exists():
            method = json.loads(method_path.read_text(encoding="utf-8"))
    target = figures["sparsity"] if this.sparsity is None else this.sparsity
    report = {
        "round": this.number,
        "target_sparsity": target,
        **figures,
        **result,
        "method": method,
        "controls": {
            kind: control_runs.run(context, this, kind, zips=zips)
            for kind in (context.pruning.controls if this.number else ())
        },
    }
    round_report.write(context.folder, report)
    return report


def _train_round(
    context: Context, this: plan.Round, *, zips: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains a round and exports its model; its sizes and its result."""
    trainer = context.trainer
    folder = context.round_folder(this.number)
    snapshot = updates = None
    step = plan.rewind_step(context.pruning)
    if this.number == 0 and step is not None:
        snapshot = (step, functools.partial(context.export, folder / "rewind"))
    weight_masks = choosing.choose(context, this)
    if this.number:
        updates = dynamic.updates(
            trainer, sparsities_for=choosing.budget_by_sizes(context)
        )
    phase = training.Phase(
        name=this.name,
        start=this.start,
        end=this.end,
        stream=this.number,
        snapshot=snapshot,
        updates=updates,
    )

    def load_params():
        return context.prepared.load_params(context.start_of(this.number))

    if this.start == this.end:
        params = masks.apply_in_place(load_params(), weight_masks)
        result = trainer.evaluate(params)
    else:
        context.prepared.teach(trainer, context.model_of(0) if this.number else None)
        state, result = training.fit(
            trainer, phase, load_params=load_params, weight_masks=weight_masks
        )
        params, weight_masks = state.params, state.masks
        if context.pruning.criterion == "movement":
            context.export(folder / "movement", movement.scores(state))
        if updates is not None:
            masks.save(context.masks_path(this.number), weight_masks)
        del state  # the controls need its memory
    context.export(folder / "model", params)
    training.write_samples(context.prepared, this.name, trainer.model_config, params)
    figures = round_report.sizes(trainer.shapes, weight_masks)
    if zips:
        figures["bytes_zipped"] = zipped.weights_bytes(trainer.model_config, params)
    return figures, run_lib.describe(result)


def _variants(context: Context, report: dict[str, Any]) -> list[timing.Variant]:
    """A round's model, and those of its controls."""
    number = report["round"]
    paths = {round_report.name(number): context.masks_path(number)} | {
        round_report.name(number, kind): context.control_masks_path(number, kind)
        for kind in report["controls"]
    }
    config = context.trainer.model_config
    return [
        timing.Variant(name=name, config=config, masks_path=path)
        for name, path in paths.items()
    ]


def _conclude(
    context: Context, last: dict[str, Any], models: list[timing.Variant]
) -> dict[str, Any]:
    """Exports the last round's model; what the summary says of it.

    Args:
      models: as `savings.measure` takes them.
    """
    prepared = context.prepared
    params = prepared.load_params(context.model_of(last["round"]))
    prepared.export(context.folder / "export", params)
    return savings.conclude(prepared, context.trainer, last, models)
