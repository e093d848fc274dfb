"""What pruning saved, measured: zipped bytes, and the time of steps and decoding."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from gptjax import generation, masks, model, training
from gptjax.convert import zipped
from gptjax.pruning import removed, round_report, timing


def measure(
    prepared: training.Prepared,
    trainer: training.Trainer,
    params: Any,
    load_masks: Callable[[], masks.Masks],
) -> dict[str, Any]:
    """Zipped bytes, and seconds of a training step and of decoding.

    Stock dense kernels multiply zeros like other numbers: no ratio below 1 is to be
    expected from masks, and the report says so. What cutting as many weights away
    would give instead is timed beside them, on a model of the same family with fewer
    heads and MLP neurons (`removed.config_like`) and random weights, since only time
    counts. Where `trainer` is that of another config than the source's, the params
    are those of a model that was cut, which is timed itself.

    The time of all is taken in turn, and medians are reported.

    Args:
      trainer: of the model that `params` are of.
      params: the pruned params.
      load_masks: gives their masks, newly placed each time: a step donates them.

    Returns:
      backend: of JAX. bytes_zipped_dense, bytes_zipped, zip_level: of the source and
        of the pruned model, see `convert.zipped`.
      step_seconds_dense, step_seconds_pruned, step_ratios, and the same of decode:
        medians; pruned over dense in each turn.
      step_seconds_removed, step_ratios_removed, and the same of decode: of what was
        cut. Then there is no `pruned` unless it is a reference only.
      removed: the sizes of the model cut, and whether it `is_reference` only.
    """
    dense = timing.Variant(
        name="dense", config=prepared.model_config, load_params=prepared.load_params
    )
    own = timing.Variant(
        name="pruned",
        config=trainer.model_config,
        load_params=lambda: params,
        load_masks=load_masks,
    )
    is_cut = own.config != dense.config
    if is_cut:
        cut = dataclasses.replace(own, name="removed")
        variants = [dense, cut]
    else:
        cut = _reference(trainer, load_masks())
        variants = [dense, own, *([cut] if cut else [])]
    figures = timing.figures(trainer, variants)
    for what in () if is_cut else ("step", "decode"):
        figures[f"{what}_ratios"] = figures.pop(f"{what}_ratios_pruned")
    if cut:
        figures["removed"] = {
            "is_reference": not is_cut,
            **round_report.shape(cut.config),
        }
    source = prepared.load_params()
    return {
        "backend": jax.default_backend(),
        "zip_level": zipped.LEVEL,
        "bytes_zipped_dense": zipped.weights_bytes(dense.config, source),
        "bytes_zipped": zipped.weights_bytes(own.config, params),
        **figures,
    }


def _reference(
    trainer: training.Trainer, weight_masks: masks.Masks
) -> timing.Variant | None:
    """A model with as many weights cut away as masks prune; None where that is none."""
    config = removed.config_like(
        trainer.model_config, weight_masks, multiple_of=trainer.mesh.shape["tensor"]
    )
    if config == trainer.model_config:
        return None
    make = functools.partial(removed.random_params, config, trainer.mesh)
    return timing.Variant(name="removed", config=config, load_params=make)


def samples(
    prepared: training.Prepared, params: Any, *, config: model.Config | None = None
) -> dict[str, str] | None:
    """What the source model and the pruned one write after the config's prompt.

    The same seed, temperature 0.8 and the 40 likeliest tokens for both.

    Args:
      config: of the pruned params, where it is not the source's.
    """
    protocol = prepared.settings.evaluation
    if protocol.sample_prompt is None:
        return None
    prompt = prepared.tokenizer.encode(protocol.sample_prompt)

    def write(config, params):
        (tokens,) = generation.generate(
            config,
            params,
            [prompt],
            max_new_tokens=protocol.sample_tokens,
            temperature=0.8,
            top_k=40,
            seed=prepared.settings.seed,
            mesh=prepared.mesh,
        )
        return prepared.tokenizer.decode(tokens)

    return {
        "prompt": protocol.sample_prompt,
        "before": write(prepared.model_config, prepared.load_params()),
        "after": write(config or prepared.model_config, params),
    }
