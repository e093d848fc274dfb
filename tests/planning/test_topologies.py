"""Names of machines: what they stand for, and what is said of wrong ones."""

import pytest

from gptjax import errors
from gptjax.planning import topologies


@pytest.mark.parametrize(
    ("name", "platform", "chip", "devices", "nodes"),
    [
        ("v4:2x2x2", "tpu", "TPU v4", 8, 1),
        ("v5e:4x4", "tpu", "TPU v5e", 16, 1),
        ("v5p:4x4x4", "tpu", "TPU v5p", 64, 1),
        ("v6e:8x16", "tpu", "TPU v6e", 128, 1),
        ("tpu7x:2x2x2", "tpu", "TPU7x", 16, 1),
        ("v5e:4x4,slices=3", "tpu", "TPU v5e", 48, 3),
        ("h100x8", "cuda", "H100", 8, 1),
        ("h200x16", "cuda", "H200", 16, 2),
        ("a100-40x4", "cuda", "A100 40GB", 4, 1),
    ],
)
def test_a_name_stands_for_a_machine(name, platform, chip, devices, nodes):
    """A slice more or a chip of half the memory makes another plan."""
    found = topologies.parse(name)
    assert found.platform == platform
    assert found.chip.name == chip
    assert (found.devices, found.nodes) == (devices, nodes)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v9:4x4", "known are v4:2x2x2"),
        ("v5e", "known are"),
        ("v5e:4x4x4", "slices of v5e have 2 axes"),
        ("v5p:4x4", "slices of v5p have 3 axes"),
        ("h100x12", "hosts of 8"),
        ("h100x0", "known are"),
        ("cpu", "known are"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_ones(name, says):
    """The compiler's own message names a regex."""
    with pytest.raises(errors.UserError, match=says) as told:
        topologies.parse(name)
    assert "\n" not in str(told.value)


def test_jax_uses_three_quarters_of_a_gpu_and_all_of_a_tpu(monkeypatch):
    """A plan that fits in 80 GB and runs out of 60 would be worse than none."""
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    gpu, tpu = topologies.parse("h100x8"), topologies.parse("v5e:4x4")
    assert gpu.usable_bytes == int(0.75 * gpu.chip.memory_bytes)
    assert tpu.usable_bytes == tpu.chip.memory_bytes
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert gpu.usable_bytes == int(0.9 * gpu.chip.memory_bytes)
    assert topologies.parse("cpu:8").usable_bytes is None


def test_sizes_of_a_kind_rise():
    """The smallest machine that fits is the first that does."""
    for kind in ("v5e", "v5p", "h100"):
        counts = [each.devices for each in topologies.sizes(kind)]
        assert counts == sorted(counts)
    assert topologies.sizes("v5e:4x4") == []
