"""The least time that a step can take, and what that makes of the chip and the run."""

import dataclasses
from typing import Any

from gptjax import chips

FORMULA = (
    "step = max(FLOPs / peak, memory traffic / HBM bandwidth, bytes sent / "
    "interconnect bandwidth, bytes sent between nodes / network bandwidth)"
)
MFU_FORMULA = (
    "MFU = (6 N + 12 L D T) x tokens / (step x peak); arXiv:2204.02311, appendix B"
)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each part of a machine is busy in a step, if it never waits.

    Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance
    Model", 2009, with links as further roofs: all of it overlaps, none stalls. A
    program takes longer.

    Attributes:
      compute, memory, interconnect, network: seconds.
      mfu: the model's FLOPs over what the chip could do in the longest of these.
    """

    compute: float
    memory: float
    interconnect: float
    network: float
    mfu: float

    @property
    def step(self) -> float:
        """Seconds of a step: the longest of all."""
        return max(self.compute, self.memory, self.interconnect, self.network)

    @property
    def bound(self) -> str:
        """The part that is busy all the time."""
        parts = ("compute", "memory", "interconnect", "network")
        return max(parts, key=lambda name: getattr(self, name))


def roofline(
    chip: chips.Chip,
    *,
    compute_dtype: str,
    flops: float,
    model_flops: float,
    memory_traffic: float,
    sent_bytes: float,
    network_bytes: float = 0.0,
) -> Roofline:
    """The roofline of a step, by what one device does in it.

    Args:
      flops: of the compiled step.
      model_flops: of the model alone, without what is computed again. More than
        `flops` where a kernel does not tell the compiler its own.
      sent_bytes: in collectives, `network_bytes` of them to other nodes.
    """
    is_float32 = compute_dtype == "float32"
    peak = chip.float32_flops if is_float32 else chip.bf16_flops
    network = 0.0
    if network_bytes and chip.network_bandwidth is not None:
        network = network_bytes / chip.network_bandwidth
    inside = max(sent_bytes - network_bytes, 0.0)
    found = Roofline(
        compute=max(flops, model_flops) / peak,
        memory=memory_traffic / chip.memory_bandwidth,
        interconnect=inside / chip.interconnect_bandwidth,
        network=network,
        mfu=0.0,
    )
    return dataclasses.replace(found, mfu=model_flops / (peak * found.step))


def device_hours(step_seconds: float, *, steps: int, devices: int) -> float:
    """What a run of so many steps takes of all devices together."""
    return step_seconds * steps * devices / 3600


def collective_bytes(table: dict[str, dict[str, Any]], key: str) -> float:
    """The sum of `sent_bytes` or `network_bytes` over all kinds."""
    return sum(row[key] for row in table.values())
