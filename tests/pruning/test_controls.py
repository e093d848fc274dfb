"""Controls have what they claim of the ticket, and nothing else of it."""

import chex
import jax
import numpy as np
import pytest

from gptjax import masks, model, sharding, tree
from gptjax.pruning import controls, ranking, selection
from gptjax.pruning.criteria import random

CONFIG = model.Config(n_layer=3, n_embd=16, n_head=4, vocab_size=48, n_positions=8)
RULES = (
    (r"blocks/(attn|mlp)/\w+/kernel", True),
    (r"embed/tokens/embedding", True),  # not stacked
    (r".*", False),
)


@pytest.fixture(scope="module")
def dense():
    """Dense masks on a mesh that splits weights over all three axes."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shapes = model.shapes(CONFIG)
    placed = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        sharding.param_shardings(mesh, shapes),
    )
    return masks.dense(placed, RULES)


def _ticket(dense, pattern="unstructured"):
    scores = random.scores(dense, jax.random.key(7))
    uneven = {
        path: np.linspace(0.2, 0.8, len(sizes))
        for path, sizes in masks.layer_sizes(dense).items()
    }
    return selection.select(
        scores, dense, pattern=pattern, scope="layer", sparsities=uneven
    )


def _prunable(weight_masks):
    return {
        path: mask
        for path, mask in tree.flatten(weight_masks).items()
        if masks.is_prunable(mask)
    }


def _control(kind, ticket, dense, key=0, pattern="unstructured"):
    key = jax.random.key(key)
    if kind == "shuffle":
        return controls.shuffled(ticket, key)
    return controls.random_like(ticket, dense, key, pattern=pattern)


@pytest.mark.parametrize("kind", ["random", "shuffle"])
def test_every_layer_keeps_its_number_of_zeros(kind, dense):
    """A control with other counts could be better or worse for that alone."""
    ticket = _ticket(dense)
    control = _control(kind, ticket, dense)
    chex.assert_trees_all_equal(masks.survivors(control), masks.survivors(ticket))
    for path, mask in _prunable(control).items():
        own = _prunable(ticket)[path]
        by_layer = zip(
            masks.by_layer(path, mask), masks.by_layer(path, own), strict=True
        )
        assert all((one != other).any() for one, other in by_layer), path


@pytest.mark.parametrize("kind", ["random", "shuffle"])
def test_a_control_lies_where_the_ticket_lies(kind, dense):
    """Gathered masks would not fit beside a model that is split over a mesh."""
    control = _prunable(_control(kind, _ticket(dense), dense))
    for path, mask in _prunable(dense).items():
        assert control[path].sharding == mask.sharding, path
        assert control[path].dtype == bool


@pytest.mark.parametrize("kind", ["random", "shuffle"])
def test_the_key_alone_says_what_is_drawn(kind, dense):
    """A control resumed after a kill must be the one that was begun."""
    ticket = _ticket(dense)
    one, again, other = (_control(kind, ticket, dense, key) for key in (1, 1, 2))
    chex.assert_trees_all_equal(one, again)
    for path, mask in _prunable(other).items():
        assert (mask != _prunable(one)[path]).any()


@pytest.fixture
def shuffled_half(dense):
    """The shuffled mask (L, D, F) of layers that are equal: half the inputs gone."""
    flat = tree.flatten(dense)
    path = "blocks/mlp/up/kernel"
    half = np.ones(flat[path].shape, bool)
    half[:, : half.shape[1] // 2] = False
    flat[path] = jax.device_put(half, flat[path].sharding)
    shuffled = controls.shuffled(tree.unflatten(flat), jax.random.key(0))
    return np.asarray(tree.flatten(shuffled)[path])


def test_layers_with_equal_masks_are_shuffled_apart(shuffled_half):
    """One permutation for all layers would repeat one mask down the model."""
    first, second, third = shuffled_half
    assert (first != second).any()
    assert (second != third).any()


def test_an_entry_may_go_anywhere_in_its_layer(shuffled_half):
    """A permutation within rows, or of whole rows, would keep what a row has."""
    alive = shuffled_half.sum(2)
    # 64 of 1024 entries drawn, half of which are alive: the standard deviation is
    # sqrt(64 / 4 * (1024 - 64) / 1023) = 3.9.
    assert (np.abs(alive - 32) < 5 * 3.9).all()
    assert len(np.unique(alive)) > 4


def test_a_random_mask_obeys_the_pattern_and_a_shuffled_one_does_not(dense):
    """2:4 against a random mask without it would compare patterns, not tickets."""
    ticket = _ticket(dense, "2:4")

    def groups(weight_masks):
        kernel = weight_masks["blocks"]["mlp"]["up"]["kernel"]
        return np.asarray(kernel).reshape(3, 4, 4, -1).sum(2)

    assert (groups(ticket) == 2).all()
    control = _control("random", ticket, dense, pattern="2:4")
    assert (groups(control) == 2).all()
    assert (groups(controls.shuffled(ticket, jax.random.key(0))) != 2).any()


def test_a_random_mask_of_tiles_prunes_as_many_tiles(dense):
    """Each tile is whole or gone, and each layer keeps its number of them."""
    ticket = _ticket(dense, "4x4")
    control = _control("random", ticket, dense, pattern="4x4")
    chex.assert_trees_all_equal(masks.survivors(control), masks.survivors(ticket))
    kernel = np.asarray(control["blocks"]["mlp"]["up"]["kernel"])
    tiles = kernel.reshape(3, 4, 4, 16, 4).sum((2, 4))
    assert set(np.unique(tiles)) == {0, 16}


def test_an_unstructured_random_mask_is_the_ranking_of_random_scores(dense):
    """Runs that are under way, and the tables of finished ones, depend on it."""
    ticket, key = _ticket(dense), jax.random.key(3)
    alive, sizes = masks.survivors(ticket), masks.layer_sizes(ticket)
    counts = {path: sizes[path] - alive[path] for path in sizes}
    chex.assert_trees_all_equal(
        controls.random_like(ticket, dense, key, pattern="unstructured"),
        ranking.prune_counts(random.scores(dense, key), dense, counts),
    )


def test_reinitialised_weights_are_a_fresh_model_on_the_mesh(dense):
    """The same draw as without a mesh, where the ticket's weights lie."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    places = sharding.param_shardings(mesh, model.shapes(CONFIG))
    fresh = controls.reinitialised(CONFIG, jax.random.key(5), places)
    alone = jax.jit(model.init, static_argnums=1)(jax.random.key(5), CONFIG)
    chex.assert_trees_all_close(fresh, alone, atol=1e-6)
    assert jax.tree.map(lambda leaf: leaf.sharding, fresh) == places
