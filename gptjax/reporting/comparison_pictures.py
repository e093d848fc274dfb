"""The pictures of a comparison: what a method's models are worth, and what it takes."""

import math
import pathlib
from typing import Any

from gptjax.reporting import comparison_table, measures, pictures

Rows = comparison_table.Rows
Row = comparison_table.Row


def perplexity_sparsity(rows: Rows, dense: Row, stem: pathlib.Path) -> None:
    """Perplexity against sparsity, a line a method, a band of a standard deviation.

    Args:
      stem: the path without its ending.
    """
    with pictures.picture(stem, width=7.2, height=4.6) as drawn:
        plot = drawn.subplots()
        _curves(plot, rows, "sparsity")
        _dense_line(plot, dense)
        plot.set_xlabel("sparsity: prunable weights that are zero or removed")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _finish(drawn, plot, rows)


def perplexity_bytes(rows: Rows, dense: Row, stem: pathlib.Path) -> None:
    """Perplexity against packed bytes: what a model is worth for what it weighs."""
    with pictures.picture(stem, width=7.2, height=4.6) as drawn:
        plot = drawn.subplots()
        _curves(plot, rows, "bytes_packed", scale=1e-6)
        if dense.get("perplexity") and dense.get("bytes_dense"):
            plot.plot(
                [dense["bytes_dense"] / 1e6],
                [dense["perplexity"]],
                linestyle="none",
                marker="*",
                markersize=13,
                color=pictures.DENSE["color"],
                label="dense",
            )
        _dense_line(plot, {**dense, "label": None})
        plot.set_xlabel("megabytes packed: mask bits and the values that are left")
        _finish(drawn, plot, rows)


def method_cost(rows: Rows, stem: pathlib.Path) -> bool:
    """Seconds and peak memory of each method, the dearest of its sparsities.

    Returns:
      Whether there was anything to draw.
    """
    panels = {
        "method_seconds": ("seconds", 1.0),
        "method_peak_bytes": ("peak memory, gigabytes", 1e-9),
    }
    curves = comparison_table.curves(rows)
    shown: dict[str, dict[str, float]] = {}
    for key in panels:
        for name, groups in curves.items():
            means = [comparison_table.mean(group, key) for group in groups]
            means = [value for value in means if value is not None]
            if means:
                shown.setdefault(key, {})[name] = max(means)
    if not shown:
        return False
    names = list(reversed(curves))
    with pictures.picture(stem, width=8.6, height=1.2 + 0.34 * len(names)) as drawn:
        plots = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for plot, (key, found) in zip(plots, shown.items(), strict=True):
            title, scale = panels[key]
            sizes = [found.get(name, 0.0) * scale for name in names]
            bars = plot.barh(names, sizes, color=pictures.COLORS[0], height=0.62)
            plot.bar_label(bars, [f"{size:.3g}" for size in sizes], padding=3)
            plot.margins(x=0.16)
            plot.set_xlabel(title)
            plot.grid(visible=False, axis="y")
    return True


def _curves(plot: Any, rows: Rows, key: str, *, scale: float = 1.0) -> None:
    """A line of means for each method, and what its seeds spread over."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for place, (name, groups) in enumerate(comparison_table.curves(rows).items()):
        # A colour for each method, whatever its pattern; a marker for each line.
        method = methods.index(groups[0][0]["method"])
        points = []
        for group in groups:
            x = comparison_table.mean(group, key)
            y = comparison_table.mean(group, "perplexity")
            if x is not None and y is not None and math.isfinite(y):
                spread = comparison_table.deviation(group, "perplexity") or 0.0
                points.append((x * scale, y, spread))
        if not points:
            continue
        points.sort()
        xs, ys, spreads = zip(*points, strict=True)
        color = pictures.COLORS[method % len(pictures.COLORS)]
        plot.plot(
            xs,
            ys,
            color=color,
            marker=pictures.MARKERS[place % len(pictures.MARKERS)],
            linestyle=pictures.DASHES[
                method // len(pictures.COLORS) % len(pictures.DASHES)
            ],
            label=name,
        )
        if any(spreads):
            low, high = (
                [y + sign * spread for _, y, spread in points] for sign in (-1, 1)
            )
            if len(points) > 1:
                plot.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)
            plot.errorbar(
                xs, ys, spreads, color=color, linestyle="none", linewidth=1, capsize=3
            )


def _dense_line(plot: Any, dense: Row) -> None:
    if dense.get("perplexity"):
        label = dense.get("label", "dense")
        plot.axhline(dense["perplexity"], label=label, **pictures.DENSE)


def _finish(drawn: Any, plot: Any, rows: Rows) -> None:
    measures.PERPLEXITY.label_axis(plot)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(loc="best", fontsize=9)
    protocols = {row["protocol"] for row in rows if row.get("protocol")}
    if len(protocols) == 1:
        drawn.supxlabel(protocols.pop(), fontsize=7.5, color="#555555", wrap=True)
