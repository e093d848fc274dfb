"""The pictures of a report, as PNG and SVG, in colours that all eyes tell apart.

matplotlib is imported when a picture is drawn, and without pyplot: nothing global
is left behind, and no display is needed.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax import config
from gptjax.reporting import measures, tables

if TYPE_CHECKING:
    from matplotlib import axes

# Okabe and Ito's palette; the markers tell the series apart without colours.
_ROUNDS = {"color": "#0072B2", "marker": "o"}
_CONTROLS = {
    "random": {"color": "#D55E00", "marker": "s", "label": "random mask"},
    "reinit": {"color": "#009E73", "marker": "^", "label": "fresh weights"},
    "shuffle": {"color": "#CC79A7", "marker": "D", "label": "shuffled mask"},
    "twin": {"color": "#56B4E9", "marker": "v", "label": "other batches"},
}
DENSE = {"color": "#555555", "linestyle": (0, (4, 3)), "linewidth": 1.2}
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "svg.fonttype": "none",
    # Without these two, equal pictures would differ in every byte of their SVG.
    "svg.hashsalt": "gptjax",
}
_METADATA = {"svg": {"Date": None}}

Rounds = Sequence[dict[str, Any]]


@contextlib.contextmanager
def picture(stem: pathlib.Path, *, width: float, height: float) -> Iterator[Any]:
    """A figure to draw on, in inches, saved as `stem`.png and `stem`.svg at the end."""
    import matplotlib
    from matplotlib import figure

    with matplotlib.rc_context(_STYLE):
        drawn = figure.Figure(figsize=(width, height), layout="constrained")
        yield drawn
        for ending in ("png", "svg"):
            drawn.savefig(
                stem.with_suffix(f".{ending}"),
                dpi=160,
                metadata=_METADATA.get(ending),
            )


def sparsity(
    rounds: Rounds, stem: pathlib.Path, *, criterion: str, title: str | None = None
) -> None:
    """The rounds' measure against sparsity, with controls and the dense line.

    Args:
      rounds: contents of `report.json`, round 0 the dense one.
      criterion: what the rounds are called.
      stem: the path without its ending.
    """
    with picture(stem, width=6.4, height=4.2) as drawn:
        plot, measure = drawn.subplots(), measures.find(rounds)
        _series(plot, rounds, measure.of, **_ROUNDS)
        plot.lines[-1].set_label(criterion)
        for kind in tables.controls(rounds):
            style = _CONTROLS.get(kind, {"marker": "d", "label": kind})
            _series(
                plot,
                rounds,
                lambda r, k=kind: measure.of(tables.control(r, k)),
                **style,
            )
        dense = next((measure.of(r) for r in rounds if r["round"] == 0), None)
        if dense is not None:
            plot.axhline(dense, label="dense, trained alike", **DENSE)
        measure.label_axis(plot)
        plot.set_xlabel("sparsity: prunable weights that are zero")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        plot.set_xlim(left=-0.02)
        plot.legend(loc="best")
        if title:
            plot.set_title(title, loc="left", fontsize=11)
        protocols = {r["protocol"] for r in rounds if r.get("protocol")}
        if len(protocols) == 1:
            drawn.supxlabel(protocols.pop(), fontsize=7.5, color="#555555", wrap=True)


def training_curves(
    metrics: Sequence[dict[str, Any]], rounds: Rounds, stem: pathlib.Path
) -> None:
    """Training loss and the validation's measure by step, a line for each round.

    Args:
      metrics: the lines of `metrics.jsonl`; those of controls are not drawn.
      rounds: tell the sparsity that a round's colour stands for; may be empty.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for record in metrics:
        if "-" not in record["phase"]:  # the controls are called NN-random, NN-reinit
            phases.setdefault(record["phase"], []).append(record)
    sparsities = {f"{r['round']:02d}": r["sparsity"] for r in rounds}
    with picture(stem, width=8.6, height=3.6) as drawn:
        from matplotlib import cm, colormaps, colors

        # Up to 0.85: the map's lightest yellows vanish on white.
        scale = cm.ScalarMappable(
            colors.Normalize(0, max(sparsities.values(), default=0) or 1),
            colors.ListedColormap(colormaps["viridis"](np.linspace(0, 0.85, 256))),
        )
        panels, measure = drawn.subplots(1, 2), measures.find(metrics, "valid_")
        valid = f"valid_{measure.key}"
        # Of several tasks, each step's loss is that of another one.
        own = f"{config.MAIN}_loss"
        loss = own if any(own in record for record in metrics) else "loss"
        for plot, key in zip(panels, (loss, valid), strict=True):
            for phase, records in sorted(phases.items()):
                points = [(r["step"], r[key]) for r in records if key in r]
                if not points:
                    continue
                plot.plot(
                    *zip(*points, strict=True),
                    color=scale.to_rgba(sparsities.get(phase, 0.0)),
                    linewidth=1.4,
                    marker="o" if key == valid else None,
                    markersize=4,
                )
            plot.set_xlabel("step")
        panels[0].set_ylabel(f"training loss, nats per {measure.loss_unit}")
        measure.label_axis(panels[1])
        panels[1].set_ylabel(f"validation {measure.key}")
        if len(sparsities) > 1:
            bar = drawn.colorbar(scale, ax=list(panels), label="sparsity of the round")
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def layer_sparsity(round_: dict[str, Any], stem: pathlib.Path) -> None:
    """A map of sparsity: kinds of weights down, layers across."""
    kinds = round_["sparsity_per_layer"]
    layers = max(len(values) for values in kinds.values())
    grid = np.full((len(kinds), layers), np.nan)
    for row, values in enumerate(kinds.values()):
        grid[row, : len(values)] = values
    low, high = np.nanmin(grid), np.nanmax(grid)
    if high - low < 0.1:  # else the map would show rounding as if it were structure
        low, high = max(0.0, high - 0.1), max(high, 0.1)
    size = {"width": 2.6 + 0.55 * layers, "height": 1.2 + 0.45 * len(kinds)}
    with picture(stem, **size) as drawn:
        plot = drawn.subplots()
        shown = plot.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        plot.grid(visible=False)
        plot.set_yticks(range(len(kinds)), [_short(path) for path in kinds])
        step = math.ceil(layers / 24)
        plot.set_xticks(range(0, layers, step))
        plot.set_xlabel("layer")
        if layers <= 24:
            for (row, column), value in np.ndenumerate(grid):
                if np.isfinite(value):
                    is_light = value > low + 0.6 * (high - low)
                    plot.text(
                        column,
                        row,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        color="black" if is_light else "white",
                        fontsize=8.5,
                    )
        bar = drawn.colorbar(shown, ax=plot, label=f"zeros, round {round_['round']}")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _short(path: str) -> str:
    return path.removeprefix("blocks/").removesuffix("/kernel")


def _series(plot: "axes.Axes", rounds: Rounds, value_of: Any, **style: Any) -> None:
    """A line through the finite values of the rounds that have one."""
    points = [(r["sparsity"], value_of(r)) for r in rounds]
    points = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    plot.plot([x for x, _ in points], [y for _, y in points], **style)
