"""A sparsity that rises as Zhu and Gupta's formula says, by every criterion."""

import json

import jax
import numpy as np
import pytest

from gptjax import errors, masks
from gptjax.pruning.dynamic import gradual, times

GRADUAL = {
    "training.steps": 8,
    "optimizer.name": "adam",
    "pruning.schedule": "gradual",
    "pruning.sparsities": [0.8],
    "pruning.updates.first_step": 1,
    "pruning.updates.last_step": 8,
    "pruning.updates.every_steps": 3,
    "pruning.updates.initial_sparsity": 0.1,
    "pruning.scope": "layer",
}
"""The last update falls on the last step, not three after the one before it."""
DUE = [1, 4, 7, 8]


def cubic(step, initial, final, first, last):
    """Equation 1 of arXiv:1710.01878."""
    return final + (initial - final) * (1 - (step - first) / (last - first)) ** 3


def test_the_sparsity_is_that_of_the_cubic_schedule():
    """A last update that misses the target leaves a run short of what was asked."""
    asked = gradual.Gradual(
        times=times.Times(first=5, last=50, every=10),
        initial=0.2,
        final=0.9,
        scores=None,
        scope="global",
        sparsities_for=None,
    )
    due = [step for step in range(60) if asked.is_due(step)]
    assert due == [5, 15, 25, 35, 45, 50]
    for step in due:
        assert asked.sparsity(step) == pytest.approx(cubic(step, 0.2, 0.9, 5, 50))
    assert asked.sparsity(5) == pytest.approx(0.2)
    assert asked.sparsity(50) == 0.9


@pytest.mark.parametrize(
    "criterion",
    ["magnitude", "taylor", pytest.param("movement", marks=pytest.mark.slow)],
)
def test_a_phase_prunes_the_lowest_scores_in_time(whole, flatten, criterion):
    """Each criterion reads another thing, from the state as it was at that step."""
    done, folder = whole(criterion, **GRADUAL, **{"pruning.criterion": criterion})
    assert [step for step, *_ in done.changes] == DUE
    assert done.compilations == 1
    for step, state, batch, new in done.changes:
        scores = {
            "magnitude": lambda state, batch: jax.tree.map(np.abs, state.params),
            "taylor": lambda state, batch: jax.tree.map(
                lambda w, g: np.abs(w * g),
                state.params,
                jax.tree.map(np.asarray, done.trainer.gradients(state.params, batch)),
            ),
            "movement": lambda state, batch: state.opt_state[1].movement,
        }[criterion](state, batch)
        before, after = flatten(state.masks), flatten(new)
        for path, score in flatten(new, scores).items():
            for layer, mask in enumerate(before[path]):
                count = round(cubic(step, 0.1, 0.8, 1, 8) * mask.size)
                ranked = np.where(mask, score[layer], -np.inf).ravel()
                keep = np.ones(mask.size, bool)
                keep[np.argsort(ranked, kind="stable")[:count]] = False
                np.testing.assert_array_equal(after[path][layer].ravel(), keep)
    for params, weight_masks in done.steps:
        for path, mask in weight_masks.items():
            assert (params[path][~mask] == 0).all()
    assert masks.sparsity(done.state.masks) == pytest.approx(0.8, abs=2e-3)
    for path, mask in flatten(done.state.masks).items():
        assert (flatten(done.state.masks, done.state.params)[path][~mask] == 0).all()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    logged = {r["step"]: r["sparsity"] for r in logged if "sparsity" in r}
    assert list(logged) == DUE
    for step, sparsity in logged.items():
        assert sparsity == pytest.approx(cubic(step, 0.1, 0.8, 1, 8), abs=2e-3)


def test_movement_cannot_prune_before_anything_moved(train, tmp_path):
    """All scores are 0 then: the mask would be the order of the indices."""
    early = {**GRADUAL, "pruning.updates.first_step": 0}
    with pytest.raises(errors.UserError, match="nothing has moved yet"):
        train(tmp_path / "run", **early, **{"pruning.criterion": "movement"})
