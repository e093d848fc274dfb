"""Mesh, rules and placement."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from gptjax import errors, model, sharding, tree

SMALL = model.Config(n_layer=2, n_embd=16, n_head=4, vocab_size=33, n_positions=8)


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of a TPU v5p, as JAX describes it."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    process_index: int = 0
    slice_index: int = 0


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1, 1)),
        ({"data": 2, "context": -1}, (2, 1, 4, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(sizes, shape):
    """Filled wrongly, a mesh would leave devices idle."""
    assert tuple(sharding.make_mesh(**sizes).shape.values()) == shape


@pytest.mark.parametrize("sizes", [{"data": 3}, {"fsdp": -1}, {"data": 4, "fsdp": 1}])
def test_a_mesh_that_does_not_use_all_devices_is_an_error(sizes):
    """JAX would quietly build a smaller mesh of the first devices."""
    with pytest.raises(errors.UserError, match="mesh: "):
        sharding.make_mesh(**sizes)


def test_an_axis_may_take_a_part_of_a_torus():
    """JAX refuses to lay 32 x 2 over the 4 x 4 x 4 chips of a TPU, unless asked to."""
    chips = [
        Chip(number, coords)
        for number, coords in enumerate(itertools.product(range(4), repeat=3))
    ]
    mesh = sharding.make_mesh(data=1, fsdp=32, tensor=2, devices=chips)
    assert mesh.devices.shape == (1, 32, 1, 2)
    assert {chip.id for chip in mesh.devices.flat} == set(range(64))
    # Those that share a layer are neighbours.
    for pair in mesh.devices.reshape(32, 2):
        ends = np.array([chip.coords for chip in pair])
        assert np.abs(ends[0] - ends[1]).sum() == 1


def test_every_weight_matrix_is_split_over_fsdp_and_tensor():
    """A rule that lost its axis would copy that weight to every device."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    places = tree.flatten(sharding.param_shardings(mesh, model.shapes(SMALL)))
    for path, shape in tree.flatten(model.shapes(SMALL)).items():
        if path.endswith(("kernel", "embedding")):
            part = places[path].shard_shape(shape.shape)
            assert np.prod(part) * 4 == np.prod(shape.shape), path


def test_a_dimension_that_the_mesh_does_not_divide_names_its_leaf():
    """XLA pads in silence, at the cost of memory and of exports."""
    config = model.Config(n_layer=2, n_embd=12, n_head=3, vocab_size=33, n_positions=8)
    mesh = sharding.make_mesh(fsdp=1, tensor=2)
    with pytest.raises(errors.UserError, match=r"blocks/attn/out/kernel .* of 3 does"):
        sharding.param_shardings(mesh, model.shapes(config))


def test_placed_arrays_come_back_whole():
    """Indexing mixed up between shards would permute the array."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    array = np.arange(64.0).reshape(8, 8)
    spec = jax.sharding.PartitionSpec(("data", "fsdp"), "tensor")
    placed = sharding.place(array, jax.sharding.NamedSharding(mesh, spec))
    assert placed.addressable_shards[0].data.shape == (2, 4)
    np.testing.assert_array_equal(sharding.to_host(placed), array)


def test_a_batch_that_the_devices_do_not_share_evenly_is_an_error():
    """The config key is what the user can mend."""
    mesh = sharding.make_mesh()
    with pytest.raises(
        errors.UserError, match=r"training\.batch_sequences: 12 sequences"
    ):
        sharding.check_batch(mesh, 12, key="training.batch_sequences")
