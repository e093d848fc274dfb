"""Names of machines, as `--topology` takes them, and what devices they stand for."""

import dataclasses
import math
import os
import re
from typing import Any

from gptjax import chips, errors
from gptjax.planning import gpus

_TPUS = {
    "v4": ("TPU v4", 3),
    "v5e": ("TPU v5e", 2),
    "v5p": ("TPU v5p", 3),
    "v6e": ("TPU v6e", 2),
    "tpu7x": ("TPU7x", 3),
}
"""What a TPU is called in `chips`, and how many axes its slices have."""

# Cores that a chip shows as devices of their own; v4 shows both of its as one.
_DEVICES_A_CHIP = {"tpu7x": 2}
_CHIPS_A_HOST = 4
_GPUS_A_HOST = 8

KNOWN = (
    "v4:2x2x2, v5e:4x4, v5p:4x4x4, v6e:8x8, tpu7x:2x2x2 (any shape of chips; several "
    "slices: v5e:4x4,slices=2; without a shape, the smallest that fits), "
    + ", ".join(f"{name}x8" for name in gpus.GPUS)
    + " (any number up to 8, or hosts of 8), cpu:8"
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine that a step is compiled for.

    Attributes:
      name: as it was given.
      platform: `tpu`, `cuda` or `cpu`.
      compiler_name: what the platform's compiler calls it.
      chip: None on a CPU, of which nothing is promised.
      devices: how many there are, over all slices or hosts.
      nodes: parts that only a network joins: slices of TPUs, hosts of GPUs.
    """

    name: str
    platform: str
    compiler_name: str
    chip: chips.Chip | None
    devices: int
    nodes: int = 1

    @property
    def usable_bytes(self) -> int | None:
        """The memory of a device that JAX uses.

        All that a TPU offers; of a GPU 75 %, unless the environment says otherwise
        (docs.jax.dev, "GPU memory allocation").
        """
        if self.chip is None:
            return None
        fraction = 1.0
        if self.platform == "cuda":
            for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
                if os.environ.get(name):
                    fraction = float(os.environ[name])
                    break
            else:
                fraction = 0.75
        return int(fraction * self.chip.memory_bytes)


def parse(name: str) -> Topology:
    """The machine that a name stands for.

    Raises:
      UserError: no such machine, naming those that are known.
    """
    for read in (_tpu, _gpu, _cpu):
        found = read(name)
        if found is not None:
            return found
    raise errors.UserError(f"--topology {name}: unknown; known are {KNOWN}")


_SLICES = {
    2: ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: (
        "2x2x1",
        "2x2x2",
        "2x2x4",
        "2x4x4",
        "4x4x4",
        "4x4x8",
        "4x8x8",
        "8x8x8",
        "8x8x16",
        "8x16x16",
        "16x16x16",
    ),
}
"""The shapes that Cloud TPU's documentation lists, by their axes."""
_GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def sizes(name: str) -> list[Topology]:
    """All machines of a kind that is named without its size, the smallest first.

    Empty where `name` is no such kind.
    """
    if name in _TPUS:
        return [parse(f"{name}:{shape}") for shape in _SLICES[_TPUS[name][1]]]
    if name in gpus.GPUS:
        return [parse(f"{name}x{count}") for count in _GPU_COUNTS]
    return []


def _tpu(name: str) -> Topology | None:
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)(?:,slices=([1-9]\d*))?", name)
    if match is None or match[1] not in _TPUS:
        return None
    chip, axes = _TPUS[match[1]]
    shape = [int(size) for size in match[2].split("x")]
    if len(shape) != axes:
        example = "x".join(["4"] * axes)
        raise errors.UserError(
            f"--topology {name}: slices of {match[1]} have {axes} axes, e.g. "
            f"{match[1]}:{example}"
        )
    slices = int(match[3] or 1)
    per_chip = _DEVICES_A_CHIP.get(match[1], 1)
    return Topology(
        name=name,
        platform="tpu",
        compiler_name=f"{match[1]}:{match[2]}",
        chip=_chip(chip),
        devices=math.prod(shape) * per_chip * slices,
        nodes=slices,
    )


def _gpu(name: str) -> Topology | None:
    match = re.fullmatch(r"([\w-]+?)x([1-9]\d*)", name)
    if match is None or match[1] not in gpus.GPUS:
        return None
    count = int(match[2])
    if count > _GPUS_A_HOST and count % _GPUS_A_HOST:
        raise errors.UserError(
            f"--topology {name}: up to {_GPUS_A_HOST} GPUs, or hosts of {_GPUS_A_HOST}"
        )
    hosts = max(count // _GPUS_A_HOST, 1)
    return Topology(
        name=name,
        platform="cuda",
        compiler_name=f"1x{hosts}x{count // hosts}",
        chip=_chip(gpus.GPUS[match[1]].chip),
        devices=count,
        nodes=hosts,
    )


def _cpu(name: str) -> Topology | None:
    match = re.fullmatch(r"cpu:([1-9]\d*)", name)
    if match is None:
        return None
    return Topology(name, "cpu", name, None, int(match[1]))


def _chip(name: str) -> chips.Chip:
    return next(chip for chip in chips.CHIPS if chip.name == name)


def devices(topology: Topology) -> list[Any]:
    """The devices, for the compiler alone; in a process set up by `compiling`."""
    import jax
    from jax.experimental import topologies

    if topology.platform == "cpu":
        return jax.devices()[: topology.devices]
    if topology.platform == "cuda":
        return topologies.get_topology_desc(
            topology.name,
            "cuda",
            target_config=gpus.target_config(topology.name.rpartition("x")[0]),
            topology=topology.compiler_name,
        ).devices
    options: dict[str, Any] = {}
    if topology.nodes > 1:
        options["num_slices"] = topology.nodes
    if topology.name.startswith("v4"):
        options["chip_config_name"] = "megacore"
    if topology.devices < _CHIPS_A_HOST:
        # Less than a host.
        shape = [int(size) for size in topology.compiler_name.split(":")[1].split("x")]
        options["chips_per_host_bounds"] = tuple([*shape, 1, 1][:3])
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology.compiler_name, **options
    ).devices


def compiler_options(topology: Topology) -> dict[str, str]:
    """What the compiler is told beside the program."""
    if topology.platform != "tpu" or topology.name.startswith("v5e"):
        return {}
    # libtpu gives a few gathers to the SparseCores, which v5e has not, in instructions
    # that jaxlib 0.10 cannot read back ("async-update ... should have 1 operands").
    return {"xla_tpu_offload_gather_to_sparsecore": "false"}


def node_of(topology: Topology, device: Any) -> int:
    """Which of the parts that a network joins a device belongs to."""
    if topology.nodes == 1:
        return 0
    return device.slice_index if topology.platform == "tpu" else device.process_index
