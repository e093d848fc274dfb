"""What a piece of work costs: its seconds and its peak memory."""

import contextlib
import dataclasses
import pathlib
import re
import time
from collections.abc import Iterator

import jax

from gptjax.pruning.calibration import memory

_STATUS = pathlib.Path("/proc/self/status")
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
        return _of_process("VmRSS")
    return _of_devices("bytes_in_use")


def _peak() -> int | None:
    if jax.default_backend() == "cpu":
        return _of_process("VmHWM")
    return _of_devices("peak_bytes_in_use")


def _of_process(field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _of_devices(key: str) -> int | None:
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s[key] for s in stats if key in s), default=None)
