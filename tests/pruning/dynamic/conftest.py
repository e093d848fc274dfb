"""Phases of training whose masks change, recorded step by step."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from gptjax import masks, training, tree
from gptjax.pruning import dynamic, selection
from gptjax.pruning.criteria import magnitude


def prunable(of, values=None):
    """The prunable leaves of masks, or of a tree like them, on the host."""
    values = tree.flatten(of if values is None else values)
    return {
        path: np.asarray(values[path])
        for path, mask in tree.flatten(of).items()
        if masks.is_prunable(mask)
    }


@dataclasses.dataclass
class Recorded:
    """A trained phase, and host copies of what it went through."""

    trainer: Any
    state: Any
    steps: list[tuple[dict, dict]]
    """Params and masks after each step."""
    changes: list[tuple[int, Any, Any, dict]]
    """Of each update: its step, the state, the batch, and the new masks."""
    compilations: int


class _Recording:
    """Updates that keep what they were given and what they gave."""

    def __init__(self, inner, changes):
        self.inner, self.changes = inner, changes

    def is_due(self, step):
        return self.inner.is_due(step)

    def update(self, state, batch):
        new = self.inner.update(state, batch)
        copied = jax.tree.map(np.array, (state, batch, new))
        self.changes.append((int(state.step), *copied))
        return new


def uniform(weight_masks):
    """`sparsities_for` of a uniform allocation."""
    sizes = masks.layer_sizes(weight_masks)
    return lambda sparsity: {p: np.full(len(n), sparsity) for p, n in sizes.items()}


@pytest.fixture(scope="session")
def train(tiny_settings):
    """A function (out, **overrides) -> Recorded, of a whole phase of a tiny run."""

    def run(out, *, start=0.0, **overrides):
        settings = tiny_settings(out, **{"data.valid": None, **overrides})
        out.mkdir(exist_ok=True)
        prepared = training.prepare(settings)
        trainer = prepared.trainer(schedule_steps=settings.training.steps)
        dense = trainer.dense_masks()
        steps, changes = [], []
        inner = trainer.take_step

        def step(state, batch, key):
            state, metrics = inner(state, batch, key)
            copied = jax.tree.map(np.array, (state.params, state.masks))
            steps.append(tuple(prunable(state.masks, part) for part in copied))
            return state, metrics

        trainer.take_step = step
        updates = dynamic.updates(trainer, sparsities_for=uniform(dense))
        state, _ = training.fit(
            trainer,
            training.Phase(
                name="phase",
                start=0,
                end=settings.training.steps,
                updates=_Recording(updates, changes),
            ),
            load_params=prepared.load_params,
            weight_masks=selection.select(
                magnitude.scores(prepared.load_params()),
                dense,
                pattern="unstructured",
                scope="layer",
                sparsities=uniform(dense)(start),
            ),
        )
        trainer.log.close()
        return Recorded(trainer, state, steps, changes, trainer.compilations)

    return run


@pytest.fixture(scope="session")
def whole(train, tmp_path_factory):
    """`train`, but each unbroken run is trained once for all tests; and its folder."""
    done = {}

    def run(name, **overrides):
        if name not in done:
            folder = tmp_path_factory.mktemp("whole") / name
            done[name] = train(folder, **overrides), folder
        return done[name]

    return run


@pytest.fixture(scope="session")
def flatten():
    """`prunable`, for tests to import from here."""
    return prunable
