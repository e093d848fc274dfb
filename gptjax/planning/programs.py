"""The very training step of a config, as a compiler of another machine takes it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import config, data, masks, model, sharding, training
from gptjax.planning import lengths

_NO_TEXT = data.Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64), bytes=0)


def compilable(settings: config.Run, platform: str) -> config.Run:
    """The config with what a compiler can do that has no device at hand.

    cuDNN's attention is built on the GPU itself. The plain formula in its place takes
    more memory and traffic, and as many FLOPs: a plan with it is an upper bound.
    """
    if platform != "cuda":
        return settings
    changed = settings.training.model_copy(update={"attention": "plain"})
    return settings.model_copy(update={"training": changed})


def make_trainer(
    settings: config.Run, model_config: model.Config, devices: list[Any]
) -> training.Trainer:
    """The Trainer of a run on some devices, without texts."""
    mesh = sharding.make_mesh(**settings.mesh.model_dump(), devices=devices)
    return training.Trainer(
        settings,
        model_config,
        mesh,
        texts=training.Texts(_NO_TEXT, None),
        schedule_steps=max(lengths.schedule_steps(settings), 1),
    )


def arguments(trainer: training.Trainer) -> tuple[Any, Any, Any]:
    """The shapes of what the step takes: state, batch, key."""
    state = training.TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        trainer.shapes,
        jax.eval_shape(masks.pack, masks.shapes(trainer.shapes, trainer.prunable)),
        jax.eval_shape(trainer.optimizer.init, trainer.shapes),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return state, trainer.task.batch_shapes(), key


def argument_bytes(trainer: training.Trainer) -> dict[str, int]:
    """What a device holds of each kind of argument, before a layout pads it."""
    state, batch, _ = arguments(trainer)
    places = trainer.places
    batch_place = sharding.batch_sharding(trainer.mesh)
    return {
        "params": _held(state.params, places.params),
        "moments": _held(state.opt_state, places.opt_state),
        "masks": _held(state.bits, places.bits),
        "batch": _held(batch, dict.fromkeys(batch, batch_place)),
    }


def _held(shapes: Any, places: Any) -> int:
    sizes = jax.tree.map(
        lambda leaf, place: (
            math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        ),
        shapes,
        places,
    )
    return sum(jax.tree.leaves(sizes))
