"""The line between two models, its ends, its barrier, and what it must not need."""

import dataclasses

import jax
import numpy as np
import pytest

from gptjax import errors, evaluation, masks, model, sharding, tree
from gptjax.evaluation import connectivity

CONFIG = model.Config(
    n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=16, initializer_range=0.5
)
IDS = np.random.default_rng(0).integers(40, size=150)
PROTOCOL = {"context": 16, "stride": 8, "batch_sequences": 4}


def _params(seed):
    return jax.jit(model.init, static_argnums=1)(jax.random.key(seed), CONFIG)


def _connect(first, second, *, points=5, **how):
    return evaluation.connect(
        CONFIG, first, second, IDS, points=points, **PROTOCOL, **how
    )


def _of(losses):
    """The result of these losses."""
    positions = tuple(np.linspace(0, 1, len(losses)).tolist())
    return evaluation.Connectivity(
        positions=positions, losses=tuple(losses), protocol=""
    )


def test_the_ends_of_the_line_are_the_models_themselves():
    """Off by one point, or the two exchanged, the barrier would be of another line."""
    first, second = _params(0), _params(1)
    result = _connect(first, second, text="a text")
    own = [
        evaluation.perplexity(CONFIG, params, IDS, **PROTOCOL, text="a text")
        for params in (first, second)
    ]
    assert result.losses[0] == own[0].loss
    assert result.losses[-1] == own[1].loss
    assert result.protocol == own[0].protocol()
    assert result.positions == (0, 0.25, 0.5, 0.75, 1)


def test_between_the_ends_lies_the_weighted_mean_of_the_weights():
    """A mean of losses, or of logits, would show no barrier where there is one."""
    first, second = _params(0), _params(1)
    mixed = jax.tree.map(
        lambda one, two: (0.75 * np.float64(one) + 0.25 * np.float64(two)).astype("f4"),
        first,
        second,
    )
    own = evaluation.perplexity(CONFIG, mixed, IDS, **PROTOCOL)
    assert _connect(first, second).losses[1] == pytest.approx(own.loss, rel=1e-6)


def test_equal_models_have_no_barrier():
    """Rounding on the way must not look like a hill."""
    params = _params(0)
    assert _connect(params, params).barrier == pytest.approx(0, abs=1e-5)


def test_the_barrier_is_the_highest_loss_above_the_mean_of_the_ends():
    """By hand: against the lower end, or the higher, it would be another measure."""
    result = _of([2.0, 2.5, 4.0, 3.5, 3.0])
    assert result.barrier == 4.0 - (2.0 + 3.0) / 2
    assert result.highest == 0.5


def test_a_convex_loss_has_no_barrier():
    """Both ends equally high, every loss on the way is lower: nothing to climb."""
    assert _of([(a - 0.5) ** 2 for a in np.linspace(0, 1, 11)]).barrier == 0


def test_what_is_pruned_in_both_is_zero_on_the_whole_way():
    """Else the line would leave the ticket whose stability is measured."""
    rules = ((r"blocks/mlp/\w+/kernel", True), (r".*", False))
    first, second = _params(0), _params(1)
    weight_masks = jax.tree.map(
        lambda mask, w: w > 0 if masks.is_prunable(mask) else mask,
        masks.dense(first, rules),
        first,
    )
    first, second = (masks.apply(p, weight_masks) for p in (first, second))
    mixed = connectivity.between(first, second, np.float32(0.3))
    for path, mask in tree.flatten(weight_masks).items():
        if masks.is_prunable(mask):
            zeros = np.asarray(tree.flatten(mixed)[path])[~np.asarray(mask)]
            assert zeros.size
            assert (zeros == 0).all()


def test_no_more_than_one_model_is_held_beside_the_two(monkeypatch):
    """At eleven points, eleven models would not fit."""
    first, second = _params(0), _params(1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(first))
    before = sum(array.nbytes for array in jax.live_arrays())
    seen = []
    measure = evaluation.perplexity

    def spy(*args, **kwargs):
        seen.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        return measure(*args, **kwargs)

    monkeypatch.setattr(connectivity, "perplexity", spy)
    _connect(first, second, points=6)
    assert len(seen) == 6
    assert max(seen) < 1.1 * size


def test_the_line_is_compiled_once():
    """A program for each point would take longer than reading the text."""
    first, second = _params(0), _params(1)
    _connect(first, second)
    compiled = connectivity.between._cache_size()
    _connect(second, first, points=7)
    assert connectivity.between._cache_size() == compiled


def test_a_mesh_gives_the_same_barrier():
    """Twins of a run that was split over devices lie there."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    places = sharding.param_shardings(mesh, model.shapes(CONFIG))
    first, second = _params(0), _params(1)
    whole = _connect(first, second)
    split = _connect(
        jax.device_put(first, places), jax.device_put(second, places), mesh=mesh
    )
    assert split.losses == pytest.approx(whole.losses, rel=1e-5)


def test_models_of_other_shapes_are_refused():
    """A broadcast would mix whatever happens to fit."""
    small = model.shapes(dataclasses.replace(CONFIG, n_inner=32))
    with pytest.raises(
        errors.UserError,
        match=r"blocks/mlp/down/kernel is \(2, 64, 16\) in the first model and is "
        r"\(2, 32, 16\) in another",
    ):
        _connect(_params(0), small)
    untied = model.shapes(dataclasses.replace(CONFIG, tie_word_embeddings=False))
    with pytest.raises(errors.UserError, match="head/embedding is not there in the fi"):
        _connect(_params(0), untied)


def test_two_points_are_too_few():
    """The ends alone say nothing of what lies between them."""
    with pytest.raises(errors.UserError, match="points 2: at least 3"):
        _connect(_params(0), _params(1), points=2)
