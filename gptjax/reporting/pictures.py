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

from gptjax import config, masks
from gptjax.reporting import heat, measures, tables

if TYPE_CHECKING:
    from matplotlib import axes

# Okabe and Ito's palette, darkest first; markers and dashes go on where it ends.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
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
def picture(
    stem: pathlib.Path,
    *,
    width: float,
    height: float,
    endings: Sequence[str] = ("png", "svg"),
) -> Iterator[Any]:
    """A figure to draw on, in inches, saved as `stem`.png and `stem`.svg at the end."""
    import matplotlib
    from matplotlib import figure

    with matplotlib.rc_context(_STYLE):
        drawn = figure.Figure(figsize=(width, height), layout="constrained")
        yield drawn
        for ending in endings:
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
    """Training loss, the validation's measure and the learning rate by step, a line for
    each round.

    Args:
      metrics: the lines of `metrics.jsonl`; those of controls are not drawn.
      rounds: tell the sparsity that a round's colour stands for; may be empty.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for record in metrics:
        if "-" not in record["phase"]:  # the controls are called NN-random, NN-reinit
            phases.setdefault(record["phase"], []).append(record)
    # Where something is cut nothing is zero: then rounds go by their numbers.
    has_zeros = any(r["sparsity"] for r in rounds)
    key_of = "sparsity" if has_zeros else "round"
    shades = {f"{r['round']:02d}": r[key_of] for r in rounds}
    with picture(stem, width=11.4, height=3.5) as drawn:
        from matplotlib import cm, colormaps, colors

        # Up to 0.85: the map's lightest yellows vanish on white.
        scale = cm.ScalarMappable(
            colors.Normalize(0, max(shades.values(), default=0) or 1),
            colors.ListedColormap(colormaps["viridis"](np.linspace(0, 0.85, 256))),
        )
        panels, measure = drawn.subplots(1, 3), measures.find(metrics, "valid_")
        valid = f"valid_{measure.key}"
        # Of several tasks, each step's loss is that of another one.
        own = f"{config.MAIN}_loss"
        loss = own if any(own in record for record in metrics) else "loss"
        for plot, key in zip(panels, (loss, valid, "learning_rate"), strict=True):
            for phase, records in sorted(phases.items()):
                points = [(r["step"], r[key]) for r in records if key in r]
                if not points:
                    continue
                plot.plot(
                    *zip(*points, strict=True),
                    color=scale.to_rgba(shades.get(phase, 0.0)),
                    linewidth=1.4,
                    marker="o" if key == valid else None,
                    markersize=4,
                )
            plot.set_xlabel("step")
        panels[0].set_ylabel(f"training loss, nats per {measure.loss_unit}")
        measure.label_axis(panels[1])
        panels[1].set_ylabel(f"validation {measure.key}")
        panels[2].set_ylabel("learning rate")
        if len(shades) > 1:
            label = "sparsity of the round" if has_zeros else "round"
            bar = drawn.colorbar(scale, ax=list(panels), label=label)
            form = "{:.0%}" if has_zeros else "{:g}"
            bar.ax.yaxis.set_major_formatter(lambda value, _: form.format(value))


def layer_sparsity(round_: dict[str, Any], stem: pathlib.Path) -> None:
    """A map of sparsity: kinds of weights down, layers across."""
    kinds = round_["sparsity_per_layer"]
    layers = max(len(values) for values in kinds.values())
    grid = np.full((len(kinds), layers), np.nan)
    for row, values in enumerate(kinds.values()):
        grid[row, : len(values)] = values
    low, high = heat.bounds(kinds)
    size = {"width": 2.6 + 0.55 * layers, "height": 1.2 + 0.45 * len(kinds)}
    with picture(stem, **size) as drawn:
        plot = drawn.subplots()
        shown = plot.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        plot.grid(visible=False)
        plot.set_yticks(range(len(kinds)), [masks.kind(path) for path in kinds])
        step = math.ceil(layers / 24)
        plot.set_xticks(range(0, layers, step))
        plot.set_xlabel("layer")
        if layers <= 24:
            for (row, column), value in np.ndenumerate(grid):
                if np.isfinite(value):
                    plot.text(
                        column,
                        row,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        color="black" if heat.is_light(value, low, high) else "white",
                        fontsize=8.5,
                    )
        bar = drawn.colorbar(shown, ax=plot, label=f"zeros, round {round_['round']}")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _series(plot: "axes.Axes", rounds: Rounds, value_of: Any, **style: Any) -> None:
    """A line through the finite values of the rounds that have one."""
    points = [(r["sparsity"], value_of(r)) for r in rounds]
    points = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    plot.plot([x for x, _ in points], [y for _, y in points], **style)
