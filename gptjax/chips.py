"""Accelerators: their peak speeds and memory, as their makers state them."""

import dataclasses
import re

_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device of a kind can do at most.

    A device is a chip, with one exception: a TPU7x chip shows itself as two devices,
    and the figures are a half's.

    Attributes:
      name: what people call it.
      device_kinds: regexes of `jax.Device.device_kind`.
      bf16_flops: FLOPs/s of matrix products of bfloat16, without structured zeros.
      float32_flops: the same of float32 arrays as JAX multiplies them by default: in
        one pass of bfloat16 on TPU, in TF32 on NVIDIA.
      memory_bytes: of HBM.
      memory_bandwidth: bytes/s from and to HBM.
      interconnect_bandwidth: bytes/s that leave the device over all its links to its
        neighbours together (ICI, NVLink), in one direction.
      network_bandwidth: its share of the bytes/s that leave its slice or host over a
        network (DCN, InfiniBand); None where the maker says nothing.
    """

    name: str
    device_kinds: tuple[str, ...]
    bf16_flops: float
    float32_flops: float
    memory_bytes: int
    memory_bandwidth: float
    interconnect_bandwidth: float
    network_bandwidth: float | None


# TPU: docs.cloud.google.com/tpu/docs, the pages v4, v5e, v5p, v6e and tpu7x, which
# give ICI in both directions together since 2025, before in one (in bits).
# NVIDIA: the data sheets "A100 Tensor Core GPU", "H100 Tensor Core GPU" and "H200
# Tensor Core GPU"; their FLOPs "with sparsity" are halved, as is NVLink's bandwidth,
# which counts both directions; the memory is what the driver reports.
# Networks: the same pages of v5e and v6e (per pod), v5p and tpu7x (per chip); the data
# sheets of DGX A100 and DGX H100/H200: a ConnectX of 200 or 400 Gb/s for each GPU.
CHIPS = (
    Chip("TPU v4", ("TPU v4",), 275e12, 275e12, 32 * _GIB, 1200e9, 300e9, None),
    Chip(
        "TPU v5e",
        ("TPU v5( lite|e)",),
        197e12,
        197e12,
        16 * _GIB,
        819e9,
        200e9,
        3.125e9,
    ),
    Chip("TPU v5p", ("TPU v5p?",), 459e12, 459e12, 95 * _GIB, 2765e9, 600e9, 6.25e9),
    Chip(
        "TPU v6e",
        ("TPU v6( lite|e)",),
        918e12,
        918e12,
        32 * _GIB,
        1638e9,
        400e9,
        12.5e9,
    ),
    Chip(
        "TPU7x", ("TPU ?v?7x?",), 1153.5e12, 1153.5e12, 96 * _GIB, 3690e9, 300e9, 6.25e9
    ),
    Chip(
        "A100 40GB",
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        bf16_flops=312e12,
        float32_flops=156e12,
        memory_bytes=40 * _GIB,
        memory_bandwidth=1555e9,
        interconnect_bandwidth=300e9,
        network_bandwidth=25e9,
    ),
    Chip(
        "A100 80GB",
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        bf16_flops=312e12,
        float32_flops=156e12,
        memory_bytes=80 * _GIB,
        # On a PCIe card, 1935e9.
        memory_bandwidth=2039e9,
        interconnect_bandwidth=300e9,
        network_bandwidth=25e9,
    ),
    Chip(
        "H100",
        ("NVIDIA H100 80GB HBM3",),
        bf16_flops=989.5e12,
        float32_flops=494.5e12,
        memory_bytes=81559 << 20,
        memory_bandwidth=3350e9,
        interconnect_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
    Chip(
        "H100 PCIe",
        ("NVIDIA H100 PCIe",),
        bf16_flops=756.5e12,
        float32_flops=378e12,
        memory_bytes=81559 << 20,
        memory_bandwidth=2000e9,
        interconnect_bandwidth=300e9,
        network_bandwidth=None,
    ),
    Chip(
        "H200",
        ("NVIDIA H200",),
        bf16_flops=989.5e12,
        float32_flops=494.5e12,
        memory_bytes=143771 << 20,
        memory_bandwidth=4800e9,
        interconnect_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
)


def find(device_kind: str) -> Chip | None:
    """The chip that a JAX device is (of), or None if it is none of `CHIPS`."""
    for chip in CHIPS:
        if any(re.fullmatch(kind, device_kind) for kind in chip.device_kinds):
            return chip
    return None
