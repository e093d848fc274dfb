"""Pruning in rounds: train, prune, rewind, train again, with controls.

Iterative: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv:1803.03635;
Frankle et al., "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611;
Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020,
arXiv:2003.02389. The other schedules are one round each, after a dense one that does
not train.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import jax

from gptjax import config, files, masks, sharding, training
from gptjax.pruning import (
    choosing,
    control_runs,
    dynamic,
    plan,
    round_report,
    savings,
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


def run(settings: config.Run) -> Pruned:
    """Prunes a model in rounds as its config says, or goes on where it was interrupted.

    Round 0 is the dense model. Each further round chooses what of the weights that the
    one before left is to go, rewinds the others and trains them. A round is done when
    its `report.json` is there; its model lies beside it, as a Hugging Face folder.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    assert settings.pruning is not None
    with training.run_folder(settings) as folder:
        planned = plan.rounds(settings)
        prepared = training.prepare(settings)
        trainer = prepared.trainer(schedule_steps=max(r.end for r in planned))
        context = Context(prepared, trainer, settings.pruning, folder)
        choosing.check(context)
        summary = run_lib.start_summary(prepared, trainer)
        reports = [_run_round(context, this, summary) for this in planned]
        last = context.round_folder(planned[-1].number)
        if "savings" not in summary:
            summary = {**summary, **_conclude(context, last, reports[-1])}
            run_lib.write_summary(prepared, summary)
        trainer.log.close()
    return Pruned(folder, folder / "export", reports, summary, trainer.compilations)


def _run_round(
    context: Context, this: plan.Round, summary: dict[str, Any]
) -> dict[str, Any]:
    """Trains a round and its controls; the contents of its report."""
    folder = context.round_folder(this.number)
    report_path = folder / "report.json"
    if report_path.exists():
        return json.loads(report_path.read_text(encoding="utf-8"))

    if this.number == 0 and this.start == this.end:
        figures = round_report.sizes(
            context.trainer.shapes, context.trainer.dense_masks()
        )
        result, method = summary["start"], {}
    else:
        figures, result = _train_round(context, this)
        method_path = folder / "method.json"
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
            kind: control_runs.run(context, this, kind)
            for kind in (context.pruning.controls if this.number else ())
        },
    }
    if jax.process_index() == 0:
        files.write_json(report_path, report)
        # The models are in their folders; what lies here was for resuming.
        for phase in (context.folder / "checkpoints").glob(f"{this.name}*"):
            shutil.rmtree(phase)
    sharding.sync(f"round {this.name}")
    return report


def _train_round(
    context: Context, this: plan.Round
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains a round and exports its model; its sizes and its perplexity."""
    folder = context.round_folder(this.number)
    snapshot = updates = None
    step = plan.rewind_step(context.pruning)
    if this.number == 0 and step is not None:
        snapshot = (step, functools.partial(context.export, folder / "rewind"))
    weight_masks = choosing.choose(context, this)
    if this.number:
        updates = dynamic.updates(
            context.trainer, sparsities_for=choosing.budget_by_sizes(context)
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
        result = context.trainer.evaluate(params)
    else:
        state, result = training.fit(
            context.trainer, phase, load_params=load_params, weight_masks=weight_masks
        )
        params, weight_masks = state.params, state.masks
        if context.pruning.criterion == "movement":
            context.export(folder / "movement", movement.scores(state))
        if updates is not None:
            masks.save(context.masks_path(this.number), weight_masks)
        del state  # the controls need its memory
    context.export(folder / "model", params)
    return (
        round_report.sizes(context.trainer.shapes, weight_masks),
        run_lib.describe(result),
    )


def _conclude(
    context: Context, last: pathlib.Path, report: dict[str, Any]
) -> dict[str, Any]:
    """Exports the last round's model; its savings and samples for the summary."""
    prepared = context.prepared
    params = prepared.load_params(last / "model")
    prepared.export(context.folder / "export", params)
    load_masks = functools.partial(context.masks_of, report["round"])
    return {
        "end": {key: report[key] for key in ("perplexity", "loss", "protocol")},
        "savings": {
            **{key: report[key] for key in round_report.SAVED},
            **savings.measure(prepared, context.trainer, params, load_masks),
        },
        "samples": savings.samples(prepared, params),
    }
