"""The pictures of several runs, as SVG: a line for each, in one colour throughout."""

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from gptjax import config
from gptjax.reporting import measures, pictures, run_folder

Runs = Sequence[tuple[str, run_folder.Run]]
"""What each is called, and the run."""


def sparsity(runs: Runs, stem: pathlib.Path, *, measure: measures.Measure) -> bool:
    """The measure of each run's rounds against sparsity.

    Args:
      stem: the path without its ending.

    Returns:
      Whether there was anything to draw.
    """
    lines = {
        place: [(r["sparsity"], measure.of(r)) for r in run.rounds]
        for place, (_, run) in enumerate(runs)
        if any(r["sparsity"] for r in run.rounds)
    }
    if not lines:
        return False
    with pictures.picture(stem, width=7.2, height=4.6, endings=["svg"]) as drawn:
        plot = drawn.subplots()
        for place, points in lines.items():
            shown = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
            if shown:
                xs, ys = zip(*shown, strict=True)
                plot.plot(xs, ys, label=runs[place][0], **_style(place))
        measure.label_axis(plot)
        plot.set_xlabel("sparsity: prunable weights that are zero")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        plot.legend(loc="best", fontsize=9)
    return True


def curves(runs: Runs, stem: pathlib.Path, *, measure: measures.Measure) -> bool:
    """Training loss, the validation's measure and the learning rate by step, the rounds
    of a run one after the other.

    Returns:
      Whether there was anything to draw.
    """
    if not any(run.metrics for _, run in runs):
        return False
    valid = f"valid_{measure.key}"
    with pictures.picture(stem, width=11.4, height=4.0, endings=["svg"]) as drawn:
        panels = drawn.subplots(1, 3)
        for place, (name, run) in enumerate(runs):
            own = f"{config.MAIN}_loss"
            loss = own if any(own in record for record in run.metrics) else "loss"
            keys = (loss, valid, "learning_rate")
            for plot, key in zip(panels, keys, strict=True):
                style = _style(place) | {"linewidth": 1.4, "markersize": 4}
                if key != valid:
                    style["marker"] = None
                points = list(_points(run.metrics, key))
                plot.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    label=name,
                    **style,
                )
        for plot in panels:
            plot.set_xlabel("step")
        panels[0].set_ylabel(f"training loss, nats per {measure.loss_unit}")
        measure.label_axis(panels[1])
        panels[1].set_ylabel(f"validation {measure.key}")
        panels[2].set_ylabel("learning rate")
        handles, names = panels[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
    return True


def _style(place: int) -> dict[str, Any]:
    return {
        "color": pictures.COLORS[place % len(pictures.COLORS)],
        "marker": pictures.MARKERS[place % len(pictures.MARKERS)],
        "linestyle": pictures.DASHES[
            place // len(pictures.COLORS) % len(pictures.DASHES)
        ],
    }


def _points(metrics: Sequence[dict[str, Any]], key: str) -> Iterator[tuple[float, Any]]:
    """A run's values by the steps of all its rounds, with a gap between two rounds.

    A schedule that goes on counts its steps on; others begin anew each round.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for record in metrics:
        if "-" not in record["phase"]:  # the controls are called NN-random, NN-reinit
            phases.setdefault(record["phase"], []).append(record)
    passed = before = 0
    for _, records in sorted(phases.items()):
        steps = [record["step"] for record in records]
        if min(steps) <= before:
            passed += before
        before = max(steps)
        for record in records:
            if key in record:
                yield passed + record["step"], record[key]
        yield passed + before, math.nan
