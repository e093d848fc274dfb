"""What pruning saved, measured: zipped bytes, and the time of steps and decoding."""

from collections.abc import Sequence
from typing import Any

import jax

from gptjax import masks, training
from gptjax.convert import zipped
from gptjax.pruning import removed, round_report, timing

RESULT = (
    *("perplexity", "accuracy", "f1", "loss", "protocol"),
    *("unit", "labels", "confusion", "auxiliary"),
)
"""What of a round's report is the result of its model, whatever the task."""


def conclude(
    prepared: training.Prepared,
    trainer: training.Trainer,
    report: dict[str, Any],
    models: Sequence[timing.Variant],
) -> dict[str, Any]:
    """What a pruning run's summary says of its end: result and savings.

    Args:
      trainer: of the last round's model.
      report: of the last round.
      models: as for `measure`.
    """
    return {
        "end": {key: report[key] for key in RESULT if key in report},
        "savings": {
            **{key: report[key] for key in round_report.SAVED},
            **measure(prepared, trainer, models),
        },
    }


def measure(
    prepared: training.Prepared,
    trainer: training.Trainer,
    models: Sequence[timing.Variant],
) -> dict[str, Any]:
    """Seconds of a training step and of decoding, beside the dense model's.

    Stock dense kernels multiply zeros like other numbers: no ratio below 1 is to be
    expected from masks, and the report says so. What cutting as many weights away
    would give instead is timed beside them, on a model of the same family with fewer
    heads and MLP neurons (`removed.config_like`). Where the config of the run's own
    model is not the source's, that was cut and is timed itself.

    The time of all is taken in turn, and medians are reported.

    Args:
      trainer: of the run's own model.
      models: that model first, and others to be timed.

    Returns:
      backend: of JAX. bytes_zipped_dense, zip_level: of the source, see
        `convert.zipped`.
      step_seconds_dense, step_seconds_pruned, step_ratios, and the same of decode:
        medians; pruned over dense in each turn.
      step_seconds_removed, step_ratios_removed, and the same of decode: of what was
        cut. Then there is no `pruned` unless it is a reference only.
      removed: the sizes of the model cut, and whether it `is_reference` only.
      models: of each of `models` by its name, what `timing.measure` says.
    """
    dense = timing.Variant(name="dense", config=prepared.model_config)
    own = models[0]
    is_cut = own.config != dense.config
    cut = own if is_cut else _reference(trainer, own)
    named = {
        variant.name: variant for variant in (dense, *models, *([cut] if cut else []))
    }
    times = timing.measure(trainer, list(named.values()))
    figures: dict[str, Any] = {}
    for what in ("step", "decode"):
        figures[f"{what}_seconds_dense"] = times["dense"][f"{what}_seconds"]
        if not is_cut:
            figures[f"{what}_seconds_pruned"] = times[own.name][f"{what}_seconds"]
            figures[f"{what}_ratios"] = times[own.name][f"{what}_ratios"]
        if cut:
            figures[f"{what}_seconds_removed"] = times[cut.name][f"{what}_seconds"]
            figures[f"{what}_ratios_removed"] = times[cut.name][f"{what}_ratios"]
    if cut:
        figures["removed"] = {
            "is_reference": not is_cut,
            **round_report.shape(cut.config),
        }
    return {
        "backend": jax.default_backend(),
        "zip_level": zipped.LEVEL,
        "bytes_zipped_dense": zipped.weights_bytes(
            dense.config, prepared.load_params()
        ),
        **figures,
        "models": {variant.name: times[variant.name] for variant in models},
    }


def _reference(trainer: training.Trainer, own: timing.Variant) -> timing.Variant | None:
    """A model with as many weights cut away as masks prune; None where that is none."""
    if own.masks_path is None:
        return None
    config = removed.config_like(
        own.config,
        masks.load(own.masks_path, trainer.placed_shapes()),
        multiple_of=trainer.mesh.shape["tensor"],
    )
    return (
        None if config == own.config else timing.Variant(name="removed", config=config)
    )
