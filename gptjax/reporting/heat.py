"""Where the zeros are: sparsity of each layer and kind of weight, round by round."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax import masks
from gptjax.reporting import page

Kinds = Mapping[str, Sequence[float]]
"""Slash path -> the sparsity of each layer."""


def heat_map(rounds: Sequence[dict[str, Any]], image: page.Image) -> page.HeatMap:
    """The rounds that have zeros, each as a table of colours and figures."""
    return page.HeatMap([_table(r) for r in rounds if r["sparsity"] > 0], image)


def bounds(kinds: Kinds) -> tuple[float, float]:
    """The sparsities that the ends of the colours stand for."""
    # A layer without such weights has no sparsity.
    values = [v for layers in kinds.values() for v in layers if math.isfinite(v)]
    low, high = min(values), max(values)
    if high - low < 0.1:  # else the map would show rounding as if it were structure
        low, high = max(0.0, high - 0.1), max(high, 0.1)
    return low, high


def is_light(value: float, low: float, high: float) -> bool:
    """Whether the text on a value's colour is to be dark."""
    return value > low + 0.6 * (high - low)


def _table(
    round_: dict[str, Any],
) -> tuple[str, list[str], list[tuple[str, list[page.Cell]]]]:
    from matplotlib import colormaps, colors

    kinds, scale = round_["sparsity_per_layer"], colormaps["cividis"]
    low, high = bounds(kinds)
    layers = max(len(values) for values in kinds.values())

    def cell(value):
        if value is None or not math.isfinite(value):
            return page.Cell("", "none", "inherit")
        color = colors.to_hex(scale(float(np.clip((value - low) / (high - low), 0, 1))))
        ink = "#000" if is_light(value, low, high) else "#fff"
        return page.Cell(f"{100 * value:.0f}", color, ink)

    rows = [
        (
            masks.kind(path),
            [cell(v) for v in [*values, *[None] * (layers - len(values))]],
        )
        for path, values in kinds.items()
    ]
    name = f"Round {round_['round']}, {round_['sparsity']:.1%}"
    return name, ["layer", *map(str, range(layers))], rows
