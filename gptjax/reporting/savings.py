"""What pruning saved, said so that nobody is misled."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax.reporting import tables

NOTICEABLE = 0.05
"""A time ratio nearer to 1 than this is noise, not a speed-up or a slowdown."""


def sentences(savings: Mapping[str, Any]) -> list[str]:
    """A sentence each for zeros, layers, bytes, step time and decode time.

    Args:
      savings: as under `savings` in `summary.json`, and `sparsity_per_layer` as in a
        round's report; a sentence whose figures are missing is left out. With
        `step_ratios` or `decode_ratios`, the time over the dense time in each turn,
        all turns have to agree on a speed-up.
    """
    said = [_zeros(savings), _layers(savings), _bytes(savings), _cut(savings)]
    said += [_time(savings, "step", "A training step")]
    said += [_time(savings, "decode", "Decoding")]
    return [sentence for sentence in said if sentence]


def cells(savings: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Sizes and times as a table: column titles, and the rows under them.

    Beside the dense model stands the run's own, and after it, where zeros were timed,
    the one that was cut alike to compare with. A ratio is over the dense model's.

    Args:
      savings: as for `sentences`; of a run that cuts, `structured` of `summary.json`
        too.
    """
    is_cut, cut = _is_cut(savings), savings.get("removed")
    titles = ["", "dense", "cut" if is_cut else "pruned", "ratio"]
    has_reference = bool(cut) and not is_cut
    if has_reference:
        titles += ["cut alike", "ratio"]
    rows = []

    def add(name, text, dense, *others):
        row = [name, text(dense)]
        for value in others[: 1 + has_reference]:
            row += (
                ["-", "-"] if value is None else [text(value), f"{value / dense:.2f}"]
            )
        rows.append(row)

    count, size = "{:,}".format, tables.bytes_text
    if is_cut and savings.get("structured"):
        sizes = savings["structured"]
        before, after = sizes["before"]["parameters"], sizes["after"]["parameters"]
        add("weights", count, before, after)
        add("bytes, dense", size, sizes["bytes_before"], sizes["bytes_after"])
    elif not is_cut and {"zeros", "parameters", "bytes_packed"} <= savings.keys():
        total, dense = savings["parameters"], savings["bytes_dense"]
        left = cut["parameters"] if cut else None
        add("weights that are not 0", count, total, total - savings["zeros"], left)
        add("bytes of the export", size, dense, dense, None)
        add("bytes, packed", size, dense, savings["bytes_packed"], None)
    if {"bytes_zipped", "bytes_zipped_dense"} <= savings.keys():
        zipped = savings["bytes_zipped_dense"], savings["bytes_zipped"]
        add("bytes, zipped", size, *zipped, None)
    own = "removed" if is_cut else "pruned"
    for what, name in (("step", "a training step"), ("decode", "decoding")):
        dense, *others = (
            savings.get(f"{what}_seconds_{of}") for of in ("dense", own, "removed")
        )
        if dense and others[0]:
            add(name, _milliseconds, dense, *others)
    return titles, rows


def speed(savings: Mapping[str, Any], what: str) -> tuple[float, bool] | None:
    """What a `step` or `decode` of the run's own model takes over the dense model's.

    And whether it is faster in all turns. None where it was not timed.
    """
    own = "removed" if _is_cut(savings) else "pruned"
    ratios = f"{what}_ratios_removed" if own == "removed" else f"{what}_ratios"
    timed = _Timed.read(savings, what, own, ratios)
    return None if timed is None else (timed.own / timed.dense, timed.is_faster)


def _zeros(savings: Mapping[str, Any]) -> str | None:
    if not {"zeros", "prunable", "parameters"} <= savings.keys():
        return None
    zeros, prunable = savings["zeros"], savings["prunable"]
    parameters = savings["parameters"]
    if not prunable:
        return None
    return (
        f"Zeros: {zeros:,} of {prunable:,} prunable weights "
        f"({zeros / prunable:.1%}), {zeros / parameters:.1%} of all {parameters:,}."
    )


def _layers(savings: Mapping[str, Any]) -> str | None:
    """The layers with the fewest and the most zeros, of their own weights."""
    layers = [
        (sparsity, number, path)
        for path, kind in (savings.get("sparsity_per_layer") or {}).items()
        for number, sparsity in enumerate(kind)
    ]
    if not layers or not max(layers)[0]:
        return None
    fewest, most = (
        f"{sparsity:.1%} of {path} in layer {number}"
        for sparsity, number, path in (min(layers), max(layers))
    )
    if f"{min(layers)[0]:.1%}" == f"{max(layers)[0]:.1%}":
        return f"Zeros per layer: {min(layers)[0]:.1%} in every one."
    return f"Zeros per layer: from {fewest} to {most}."


def _bytes(savings: Mapping[str, Any]) -> str | None:
    if not {"bytes_dense", "bytes_packed"} <= savings.keys():
        return None
    dense, packed = savings["bytes_dense"], savings["bytes_packed"]
    text = (
        f"Bytes: {tables.bytes_text(dense)} dense in float32; "
        f"{tables.bytes_text(packed)} ({packed / dense:.1%}) if packed as one mask bit "
        "a prunable weight and the values that are left"
    )
    if {"bytes_zipped", "bytes_zipped_dense"} <= savings.keys():
        zipped, before = savings["bytes_zipped"], savings["bytes_zipped_dense"]
        text += (
            f"; {tables.bytes_text(zipped)} zipped (deflate, level "
            f"{savings['zip_level']}), as the source is {tables.bytes_text(before)} "
            "zipped"
        )
    if _is_cut(savings):
        return f"{text}. The export is of the smaller model, in its stock shape."
    return (
        f"{text}. The export is dense and takes what it took before, so that it loads "
        "everywhere."
    )


def _milliseconds(seconds: float) -> str:
    """In milliseconds, with three digits, or all before the point."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def _is_cut(savings: Mapping[str, Any]) -> bool:
    """Whether the run's own model was cut, and not only one to compare with."""
    cut = savings.get("removed")
    return bool(cut) and not cut["is_reference"]


def _cut(savings: Mapping[str, Any]) -> str | None:
    """What the model is that was cut physically, whether in earnest or to compare."""
    cut = savings.get("removed")
    if not cut:
        return None
    sizes = (
        f"layers {cut['layers']}, width {cut['width']}, heads {cut['heads']}, MLP "
        f"neurons {cut['neurons']}: {cut['parameters']:,} weights"
    )
    if not _is_cut(savings):
        return (
            "Removed, for comparison: a model of this family from whose heads and "
            f"neurons the same share is cut away physically ({sizes}); it is there to "
            "be timed and has never been trained."
        )
    text = f"Removed: what was pruned is gone, not zero; left are {sizes}."
    padding = savings.get("padding")
    return f"{text} In the export {padding}." if padding else text


def _time(savings: Mapping[str, Any], what: str, name: str) -> str | None:
    zeros = _Timed.read(savings, what, "pruned", f"{what}_ratios")
    cut = _Timed.read(savings, what, "removed", f"{what}_ratios_removed")
    if zeros is None and cut is None:
        return None
    if zeros is None:
        return f"{name}: {cut.verdict('no speed-up at this size')}."
    if zeros.is_faster:
        text = f"{name}: {zeros.verdict('')}."
    else:
        backend = savings.get("backend")
        nothing = "no speed-up from zeros alone on this backend"
        nothing += f" ({backend})" if backend else ""
        text = (
            f"{name}: {zeros.verdict(nothing)}. Dense kernels multiply zeros like any "
            "other number."
        )
    if cut is not None:
        text += f" With as much removed physically: {cut.verdict('no speed-up')}."
    return text


@dataclasses.dataclass(frozen=True)
class _Timed:
    """Seconds of a model beside the dense one's, and the ratios of all turns."""

    what: str
    own: float
    dense: float
    ratios: Sequence[float]

    @classmethod
    def read(
        cls, savings: Mapping[str, Any], what: str, name: str, ratios: str
    ) -> "_Timed | None":
        own = savings.get(f"{what}_seconds_{name}")
        dense = savings.get(f"{what}_seconds_dense")
        if not own or not dense:
            return None
        return cls(name, own, dense, savings.get(ratios) or [own / dense])

    @property
    def is_faster(self) -> bool:
        return max(self.ratios) < 1 - NOTICEABLE

    def verdict(self, nothing: str) -> str:
        """The ratio and what is behind it; `nothing` says that nothing was gained."""
        ratio = self.own / self.dense
        times = (
            f"{_milliseconds(self.own)} {self.what}, {_milliseconds(self.dense)} dense"
        )
        if len(self.ratios) > 1:
            low, high = min(self.ratios), max(self.ratios)
            times += f", {low:.2f} to {high:.2f} over {len(self.ratios)} pairs"
        if self.is_faster:
            return (
                f"{1 / ratio:.2f} times as fast as before, {ratio:.2f} times the dense "
                f"time ({times})"
            )
        if min(self.ratios) > 1 + NOTICEABLE:
            nothing += ", but slower"
        return f"{nothing}: {ratio:.2f} times the dense time ({times})"
