"""Iterative magnitude pruning: train, prune, rewind, train again, with controls.

Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv:1803.03635; Frankle
et al., "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611; Renda et
al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020,
arXiv:2003.02389.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import jax

from gptjax import config, errors, files, masks, model, sharding, training
from gptjax.pruning import plan, ranking, round_report, savings
from gptjax.pruning.criteria import magnitude, random
from gptjax.training import run as run_lib

_SAVED = ("prunable", "zeros", "parameters", "bytes_dense", "bytes_packed")


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

    Round 0 trains the dense model. Each further round ranks the weights that the one
    before left, prunes the lowest, rewinds the others and trains again. A round is
    done when its `report.json` is there; its model lies beside it, as a Hugging Face
    folder.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    if settings.pruning is None:
        raise errors.UserError("pruning: missing; give sparsities, or use gptjax train")
    if settings.data.valid is None:
        raise errors.UserError("data.valid: missing; rounds are compared by perplexity")
    with training.run_folder(settings) as folder:
        planned = plan.rounds(settings)
        prepared = training.prepare(settings)
        trainer = prepared.trainer(schedule_steps=max(r.end for r in planned))
        summary = run_lib.start_summary(prepared, trainer)
        context = _Context(prepared, trainer, settings.pruning, folder)
        reports = [_run_round(context, this) for this in planned]
        last = context.round_folder(planned[-1].number)
        if "savings" not in summary:
            summary = {**summary, **_conclude(context, last, reports[-1])}
            run_lib.write_summary(prepared, summary)
        trainer.log.close()
    return Pruned(folder, folder / "export", reports, summary, trainer.compilations)


@dataclasses.dataclass(frozen=True)
class _Context:
    """What every round needs."""

    prepared: training.Prepared
    trainer: training.Trainer
    pruning: config.Pruning
    folder: pathlib.Path

    def round_folder(self, number: int) -> pathlib.Path:
        return self.folder / "rounds" / f"{number:02d}"

    def rewound(self, number: int) -> pathlib.Path:
        """The folder of the weights that round `number` starts from."""
        if number == 0 or self.pruning.rewind.to == "pretrained":
            return self.prepared.source
        if self.pruning.rewind.to == "none":
            return self.round_folder(number - 1) / "model"
        return self.round_folder(0) / "rewind"

    def masks_of(self, number: int) -> masks.Masks:
        """The stored masks of a finished or begun round."""
        if number == 0:
            return self.trainer.dense_masks()
        path = self.round_folder(number) / "masks.safetensors"
        return masks.load(path, self.trainer.placed_shapes())

    def key(self, purpose: str, number: int) -> jax.Array:
        """A random key for one purpose in one round."""
        key = jax.random.key(self.prepared.settings.seed)
        purposes = ("random", "reinit")
        return jax.random.fold_in(
            jax.random.fold_in(key, purposes.index(purpose)), number
        )


def _run_round(context: _Context, this: plan.Round) -> dict[str, Any]:
    """Trains a round and its controls; the contents of its report."""
    folder = context.round_folder(this.number)
    report_path = folder / "report.json"
    if report_path.exists():
        return json.loads(report_path.read_text(encoding="utf-8"))

    weight_masks = _masks_for(context, this)
    snapshot = None
    step = plan.rewind_step(context.pruning)
    if this.number == 0 and step is not None:
        save = functools.partial(context.prepared.export, folder / "rewind")
        snapshot = (step, save)
    state, result = training.fit(
        context.trainer,
        training.Phase(
            name=this.name,
            start=this.start,
            end=this.end,
            stream=this.number,
            snapshot=snapshot,
        ),
        load_params=lambda: context.prepared.load_params(context.rewound(this.number)),
        weight_masks=weight_masks,
    )
    context.prepared.export(folder / "model", state.params)
    figures = round_report.sizes(context.trainer.shapes, state.masks)
    del state  # the controls need its memory
    report = {
        "round": this.number,
        "target_sparsity": this.sparsity,
        **figures,
        **run_lib.describe(result),
        "controls": {
            kind: _run_control(context, this, kind)
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


def _masks_for(context: _Context, this: plan.Round) -> masks.Masks:
    """The masks of a round: stored ones if it was begun, else ranked and stored."""
    path = context.round_folder(this.number) / "masks.safetensors"
    if this.number == 0 or path.exists():
        return context.masks_of(this.number)
    before = context.round_folder(this.number - 1) / "model"
    new = ranking.prune_to(
        magnitude.scores(context.prepared.load_params(before)),
        context.masks_of(this.number - 1),
        sparsity=this.sparsity,
        scope=context.pruning.ranked_together,
    )
    masks.save(path, new)
    return new


def _run_control(context: _Context, this: plan.Round, kind: str) -> dict[str, Any]:
    """Trains a control of a round on the same batches; its perplexity.

    `random` prunes as many weights of each layer, chosen at random, from the weights
    that the round started from (with `rewind.to: none`, from round 0's trained ones,
    since the previous round's are already pruned by magnitude). `reinit` keeps the
    mask and starts from freshly initialised weights.
    """

    def load_params():
        if kind == "random":
            origin = context.rewound(this.number)
            if context.pruning.rewind.to == "none":
                origin = context.round_folder(0) / "model"
            return context.prepared.load_params(origin)
        make = functools.partial(model.init, config=context.trainer.model_config)
        places = context.trainer.places.params
        return jax.jit(make, out_shardings=places)(context.key("reinit", this.number))

    control_masks = context.masks_of(this.number)
    if kind == "random":
        alive = masks.survivors(control_masks)
        sizes = masks.layer_sizes(control_masks)
        control_masks = ranking.prune_counts(
            random.scores(
                context.trainer.placed_shapes(), context.key("random", this.number)
            ),
            context.trainer.dense_masks(),
            {path: sizes[path] - alive[path] for path in sizes},
        )
    _, result = training.fit(
        context.trainer,
        training.Phase(
            name=f"{this.name}-{kind}",
            start=this.start,
            end=this.end,
            stream=this.number,
        ),
        load_params=load_params,
        weight_masks=control_masks,
    )
    return run_lib.describe(result)


def _conclude(
    context: _Context, last: pathlib.Path, report: dict[str, Any]
) -> dict[str, Any]:
    """Exports the last round's model; its savings and samples for the summary."""
    prepared = context.prepared
    params = prepared.load_params(last / "model")
    prepared.export(context.folder / "export", params)
    load_masks = functools.partial(context.masks_of, report["round"])
    return {
        "end": {key: report[key] for key in ("perplexity", "loss", "protocol")},
        "savings": {
            **{key: report[key] for key in _SAVED},
            **savings.measure(prepared, context.trainer, params, load_masks),
        },
        "samples": savings.samples(prepared, params),
    }
