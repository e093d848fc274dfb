"""The roofline is the slowest part of a machine, and utilisation follows from it."""

import dataclasses

import pytest

from gptjax import chips
from gptjax.planning import roofline

CHIP = chips.Chip(
    name="made up",
    device_kinds=(),
    bf16_flops=100.0,
    float32_flops=50.0,
    memory_bytes=1000,
    memory_bandwidth=10.0,
    interconnect_bandwidth=5.0,
    network_bandwidth=1.0,
)
WORK = {
    "compute_dtype": "bfloat16",
    "flops": 400.0,
    "model_flops": 300.0,
    "memory_traffic": 20.0,
    "sent_bytes": 10.0,
    "network_bytes": 0.0,
}


@pytest.mark.parametrize(
    ("changed", "bound", "seconds", "mfu"),
    [
        ({}, "compute", 4.0, 0.75),
        ({"compute_dtype": "float32"}, "compute", 8.0, 0.75),
        ({"memory_traffic": 100.0}, "memory", 10.0, 0.3),
        ({"sent_bytes": 100.0}, "interconnect", 20.0, 0.15),
        ({"sent_bytes": 40.0, "network_bytes": 30.0}, "network", 30.0, 0.1),
        # A kernel that does not tell its FLOPs: the model's own are the least.
        ({"flops": 100.0}, "compute", 3.0, 1.0),
    ],
)
def test_the_slowest_part_decides(changed, bound, seconds, mfu):
    """Each figure of the chip must divide its own amount and no other."""
    found = roofline.roofline(CHIP, **(WORK | changed))
    assert found.bound == bound
    assert found.step == pytest.approx(seconds)
    assert found.mfu == pytest.approx(mfu)


def test_what_leaves_the_node_does_not_load_the_interconnect():
    """Of 40 bytes, 30 go over the network and 10 over links of 5 bytes/s."""
    found = roofline.roofline(
        CHIP, **(WORK | {"sent_bytes": 40.0, "network_bytes": 30.0})
    )
    assert found.interconnect == 2.0
    assert found.network == 30.0


def test_a_network_of_unknown_speed_takes_no_time():
    """A guess would look like a fact; the bytes are printed all the same."""
    chip = dataclasses.replace(CHIP, network_bandwidth=None)
    found = roofline.roofline(chip, **(WORK | {"network_bytes": 5.0}))
    assert found.network == 0.0


def test_device_hours_count_every_device():
    """16 devices for an hour are 16 hours to pay for."""
    assert roofline.device_hours(36.0, steps=100, devices=16) == 16.0
