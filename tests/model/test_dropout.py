"""The bits that decide what is dropped; rates and gradients are in test_gpt.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gptjax import sharding
from gptjax.model import dropout

RATE = 0.1
SHAPE = (4, 2, 32, 32)


@pytest.fixture(scope="module")
def scores():
    """For each of 300 keys, the entries of a mask as numbers of mean 0, variance 1."""
    keys = jax.random.split(jax.random.key(3), 300)
    dropped = jax.jit(jax.vmap(lambda key: dropout.apply(RATE, jnp.ones(SHAPE), key)))
    is_dropped = np.asarray(dropped(keys)).reshape(300, -1) == 0
    return (is_dropped - RATE) / (RATE * (1 - RATE)) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 32, 1024, 4096])
def test_entries_fall_independently_of_their_neighbours(scores, lag):
    """A weak hash leaves stripes: along time, heads or sequences."""
    products = scores[:, lag:] * scores[:, :-lag]
    # Five standard errors.
    assert abs(products.mean()) < 5 / products.size**0.5


def test_keys_give_unrelated_masks(scores):
    """Layers and steps would otherwise drop the same places."""
    keys, entries = scores.shape
    correlations = (scores @ scores.T / entries**0.5)[np.triu_indices(keys, 1)]
    # As independent ones do: standard normal, among 44,850 of them none beyond 6.
    assert correlations.std() == pytest.approx(1, abs=0.05)
    assert np.abs(correlations).max() < 6


def test_the_number_dropped_varies_as_it_should(scores):
    """An exact share in each mask would be no independent draw."""
    counts = scores.sum(axis=1) / scores.shape[1] ** 0.5
    assert counts.mean() == pytest.approx(0, abs=5 / 300**0.5)
    assert counts.std() == pytest.approx(1, abs=0.2)


def test_a_mesh_drops_the_same_places():
    """Runs on more devices must give the loss of one device."""
    mesh = sharding.make_mesh(data=4, fsdp=2)
    key = jax.random.key(0)
    ones = jnp.ones((8, 16, 4))
    dropped = jax.jit(lambda x: dropout.apply(0.5, x, key))
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    split = jax.device_put(ones, rows)
    assert len(split.sharding.device_set) == 8
    np.testing.assert_array_equal(dropped(split), dropped(ones))
