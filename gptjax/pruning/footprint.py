"""What a piece of work costs: its seconds and its peak memory."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator

import jax

from gptjax.pruning.calibration import memory
from gptjax.training import utilization

_RESET_PEAK = pathlib.Path("/proc/self/clear_refs")


@dataclasses.dataclass
class Footprint:
    """The cost of what ran under `measured`.

    Attributes:
      seconds: wall time, compilation included.
      peak_bytes: how far memory rose above where it stood at the start. On CPU the
        resident memory of the process; on an accelerator that of its fullest device,
        which may miss a rise that stays below an earlier one. None where the platform
        does not tell.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextlib.contextmanager
def measured() -> Iterator[Footprint]:
    """Fills in the Footprint that it gives when the work under it ends."""
    footprint = Footprint()
    before, began = _in_use(), time.perf_counter()
    yield footprint
    footprint.seconds = time.perf_counter() - began
    peak = _peak()
    if before is not None and peak is not None:
        footprint.peak_bytes = max(0, peak - before)


def _in_use() -> int | None:
    if jax.default_backend() == "cpu":
        memory.give_back()  # what is kept for reuse would hide a rise
        try:
            _RESET_PEAK.write_text("5")  # see proc(5): the peak starts anew
        except OSError:
            return None
        return utilization.of_process("VmRSS")
    return utilization.of_devices("bytes_in_use")


def _peak() -> int | None:
    if jax.default_backend() == "cpu":
        return utilization.of_process("VmHWM")
    return utilization.of_devices("peak_bytes_in_use")
