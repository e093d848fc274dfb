"""What pruning saved, said so that nobody is misled."""

from collections.abc import Mapping
from typing import Any

from gptjax.reporting import tables

NOTICEABLE = 0.05
"""A time ratio nearer to 1 than this is noise, not a speed-up or a slowdown."""


def sentences(savings: Mapping[str, Any]) -> list[str]:
    """A sentence each for zeros, bytes, step time and decode time.

    Args:
      savings: as under `savings` in `summary.json`; a sentence whose figures are
        missing is left out. With `step_ratios` or `decode_ratios`, pruned time by
        dense time of each timed pair, all pairs have to agree on a speed-up.
    """
    said = [_zeros(savings), _bytes(savings)]
    said += [_time(savings, "step", "A training step")]
    said += [_time(savings, "decode", "Decoding")]
    return [sentence for sentence in said if sentence]


def _zeros(savings: Mapping[str, Any]) -> str | None:
    if not {"zeros", "prunable", "parameters"} <= savings.keys():
        return None
    zeros, prunable = savings["zeros"], savings["prunable"]
    parameters = savings["parameters"]
    return (
        f"Zeros: {zeros:,} of {prunable:,} prunable weights "
        f"({zeros / prunable:.1%}), {zeros / parameters:.1%} of all {parameters:,}."
    )


def _bytes(savings: Mapping[str, Any]) -> str | None:
    if not {"bytes_dense", "bytes_packed"} <= savings.keys():
        return None
    dense, packed = savings["bytes_dense"], savings["bytes_packed"]
    return (
        f"Bytes: {tables.bytes_text(dense)} dense in float32; "
        f"{tables.bytes_text(packed)} ({packed / dense:.1%}) if packed as one mask bit "
        "a prunable weight and the values that are left. The export is dense and takes "
        "what it took before, so that it loads everywhere."
    )


def _time(savings: Mapping[str, Any], what: str, name: str) -> str | None:
    dense = savings.get(f"{what}_seconds_dense")
    pruned = savings.get(f"{what}_seconds_pruned")
    if not dense or not pruned:
        return None
    ratio = pruned / dense
    ratios = savings.get(f"{what}_ratios") or [ratio]
    times = f"{1000 * pruned:.3g} ms pruned, {1000 * dense:.3g} ms dense"
    if len(ratios) > 1:
        times += f", {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs"
    if max(ratios) < 1 - NOTICEABLE:
        return f"{name}: {1 / ratio:.2f} times as fast as before ({times})."
    is_slower = min(ratios) > 1 + NOTICEABLE
    verdict = "no speed-up, but slower" if is_slower else "no speed-up"
    return (
        f"{name}: {verdict}: {ratio:.2f} times the dense time ({times}). Dense kernels "
        "multiply zeros like any other number."
    )
