"""What a run makes of its machine: FLOPs over the peak, and memory."""

import ctypes
import pathlib
import re

import jax
from jax.sharding import Mesh

from gptjax import chips, model

_STATUS = pathlib.Path("/proc/self/status")


def flops_per_token(
    config: model.Config,
    *,
    parameters: int,
    sequence_tokens: float,
    frozen: int = 0,
) -> float:
    """The FLOPs of one training step for each of its tokens: 6 N + 12 L D T.

    N is the number of weights, each of which takes part in one multiplication and one
    addition forward and in two of each backward; L D T are layers, the heads' width
    together, and tokens in a sequence: attention's two products of T by T. As in the
    paper, causal attention counts as if it were full, recomputed activations do not
    count, and no more do optimizer, norms and softmax. Pruned weights count:
    dense kernels multiply zeros too. Of N, `frozen` weights need no gradient.

    Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022,
    arXiv:2204.02311, appendix B.
    """
    width = config.n_head * config.head_width
    return 6 * parameters - 2 * frozen + 12 * config.n_layer * width * sequence_tokens


def peak_flops(mesh: Mesh, *, compute_dtype: str) -> float | None:
    """FLOPs/s of all devices of a mesh at their best, or None where that is unknown."""
    chip = chips.find(mesh.devices.flat[0].device_kind)
    if chip is None:
        return None
    is_float32 = compute_dtype == "float32"
    return mesh.size * (chip.float32_flops if is_float32 else chip.bf16_flops)


def memory() -> dict[str, int]:
    """Bytes in use now, for the log.

    Of the fullest of this process's devices, and the most that it ever held:
    `device_bytes`, `device_peak_bytes`. A CPU does not tell; there it is
    `process_bytes`, the resident memory of the whole process.
    """
    found = {
        "device_bytes": of_devices("bytes_in_use"),
        "device_peak_bytes": of_devices("peak_bytes_in_use"),
    }
    if all(value is None for value in found.values()):
        found = {"process_bytes": of_process("VmRSS")}
    return {name: value for name, value in found.items() if value is not None}


def of_devices(key: str) -> int | None:
    """The largest value of `key` in the memory statistics of this process's devices."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s[key] for s in stats if key in s), default=None)


def of_process(field: str) -> int | None:
    """Bytes that Linux tells of this process in a field of its status (see proc(5))."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def return_freed() -> None:
    """Gives back to the system what this process has freed, where glibc keeps it.

    Compiling a step leaves some 200 MB of that behind, between pieces still in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
