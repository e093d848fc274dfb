"""The pictures of a search, drawn as those of every report."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from gptjax.reporting import pictures
from gptjax.tuning import results as results_lib
from gptjax.tuning import study as study_lib

_DONE = {"color": "#0072B2", "marker": "o", "linestyle": "none", "markersize": 5}
_STOPPED = {"color": "#999999", "marker": "x", "linestyle": "none", "markersize": 5}
_BEST = {"color": "#D55E00", "linewidth": 1.6, "drawstyle": "steps-post"}
_STAR = {"color": "#D55E00", "marker": "*", "linestyle": "none", "markersize": 13}


def draw(
    study: study_lib.Study, results: results_lib.Results, folder: pathlib.Path
) -> dict[str, str]:
    """Draws all that there is enough for; file stems, and what they show."""
    drawn = {}
    if results.best is not None:
        _history(results, folder / "history")
        drawn["history"] = "the best trial so far"
        _slices(study, results, folder / "slices")
        drawn["slices"] = "each trial's value by what was searched"
    if any(row["curve"] for row in results.rows):
        _evaluations(results, folder / "evaluations")
        drawn["evaluations"] = "evaluations of each trial on its way"
    importances = _importances(study)
    if importances:
        _bars(importances, folder / "importances")
        drawn["importances"] = "how much each key matters"
    return drawn


def _history(results: results_lib.Results, stem: pathlib.Path) -> None:
    done = _done(results)
    best, so_far = [], float("inf")
    for row in done:
        so_far = min(so_far, row["value"])
        best.append(so_far)
    with pictures.picture(stem, width=6.4, height=3.8) as drawn:
        plot = drawn.subplots()
        numbers = [row["trial"] for row in done]
        plot.plot(numbers, [row["value"] for row in done], label="a trial", **_DONE)
        plot.plot(numbers, best, label="the best so far", **_BEST)
        _scale(plot)
        _stopped(plot, [row["trial"] for row in _of_stopped(results)])
        _own_line(plot, results)
        plot.set_xlabel("trial")
        plot.set_ylabel(results.measure)
        plot.xaxis.get_major_locator().set_params(integer=True)
        plot.legend(loc="best")
        _say_protocol(drawn, results)


def _slices(
    study: study_lib.Study, results: results_lib.Results, stem: pathlib.Path
) -> None:
    """A panel for each key: what the trials came to by its value."""
    across = min(len(results.keys), 3)
    down = -(-len(results.keys) // across)
    with pictures.picture(stem, width=1.2 + 3.4 * across, height=3.4 * down) as drawn:
        plots = drawn.subplots(down, across, squeeze=False, sharey=True).flat
        # In this order: the plot that finds no parameter must be left in `plots`.
        for parameter, plot in zip(study.parameters, plots, strict=False):
            xs = {id(row): row["values"][parameter.key] for row in results.rows}
            if parameter.space.choices is not None:
                xs = {row: results_lib.text(x) for row, x in xs.items()}
            done = _done(results)
            plot.plot(
                [xs[id(row)] for row in done], [row["value"] for row in done], **_DONE
            )
            best = xs[id(results.best)], results.best["value"]
            plot.plot(*([each] for each in best), label="the best", **_STAR)
            _scale(plot)
            _stopped(plot, [xs[id(row)] for row in _of_stopped(results)])
            _own_line(plot, results)
            low, high = parameter.space.low, parameter.space.high
            if parameter.space.log:
                plot.set_xscale("log")
                plot.set_xlim(low / 1.1, high * 1.1)
            elif parameter.space.choices is None:
                room = 0.04 * (high - low)
                plot.set_xlim(low - room, high + room)
            plot.set_xlabel(parameter.key)
        for plot in list(plots):
            plot.set_axis_off()
        drawn.axes[0].set_ylabel(results.measure)
        drawn.axes[0].legend(loc="best", fontsize=8)
        _say_protocol(drawn, results)


def _evaluations(results: results_lib.Results, stem: pathlib.Path) -> None:
    """A line for each trial by its steps; those stopped end where they were."""
    with pictures.picture(stem, width=6.4, height=3.8) as drawn:
        plot = drawn.subplots()
        labels = set()
        for row in results.rows:
            points = list(row["curve"].items())
            if not points:
                continue
            color, label = "#0072B2", "done"
            if row["state"] != "done":
                color, label = "#999999", "stopped early"
            if row is results.best:
                color, label = "#D55E00", "the best"
            plot.plot(
                [step for step, _ in points],
                [value for _, value in points],
                color=color,
                alpha=1.0 if row is results.best else 0.55,
                linewidth=2.0 if row is results.best else 1.1,
                marker="x" if label == "stopped early" else "o",
                markersize=4,
                zorder=3 if row is results.best else 2,
                label=None if label in labels else label,
            )
            labels.add(label)
        _scale(plot)
        plot.set_xlabel("step")
        plot.set_ylabel(results.measure)
        plot.legend(loc="best")


def _importances(study: study_lib.Study) -> dict[str, float]:
    """How much of what sets good trials apart each key tells; empty for too few."""
    if len(study.parameters) < 2:
        return {}
    try:
        with _torch_as_if_unheard_of():
            importance = study_lib.library().importance
            return importance.get_param_importances(study.optuna_study)
    except (RuntimeError, ValueError):
        return {}  # too few trials are done


@contextlib.contextmanager
def _torch_as_if_unheard_of() -> Iterator[None]:
    """Lifts what keeps the commands from importing torch, a None in its place.

    optuna imports scikit-learn here, if that is installed, and with it scipy, which
    looks for torch's classes in whatever stands there.
    """
    is_kept_out = "torch" in sys.modules and sys.modules["torch"] is None
    if is_kept_out:
        del sys.modules["torch"]
    try:
        yield
    finally:
        if is_kept_out:
            sys.modules.setdefault("torch", None)


def _bars(importances: dict[str, float], stem: pathlib.Path) -> None:
    names = list(importances)[::-1]
    with pictures.picture(stem, width=6.4, height=1.2 + 0.4 * len(names)) as drawn:
        plot = drawn.subplots()
        plot.barh(names, [importances[name] for name in names], color="#0072B2")
        plot.set_xlabel("importance (PED-ANOVA, arXiv:2304.10255)")


def _scale(plot: Any) -> None:
    """A logarithm's: a trial that went astray leaves the others room."""
    plot.set_yscale("log", subs=(2, 3, 5))
    for axis in (plot.yaxis.set_major_formatter, plot.yaxis.set_minor_formatter):
        axis(lambda value, _: f"{value:g}")


def _stopped(plot: Any, places: list[Any]) -> None:
    """Marks on the upper edge, for trials that have no value."""
    if places:
        edge = {"transform": plot.get_xaxis_transform(), "clip_on": False}
        top = [1.0] * len(places)
        plot.plot(places, top, label="stopped early", **edge, **_STOPPED)


def _of_stopped(results: results_lib.Results) -> list[dict[str, Any]]:
    return [row for row in results.rows if row["state"] == "stopped"]


def _own_line(plot: Any, results: results_lib.Results) -> None:
    if results.own is not None and results.own["value"] is not None:
        plot.axhline(results.own["value"], label="the config's own", **pictures.DENSE)


def _done(results: results_lib.Results) -> list[dict[str, Any]]:
    return [row for row in results.rows if row["value"] is not None]


def _say_protocol(drawn: Any, results: results_lib.Results) -> None:
    drawn.supxlabel(results.best["protocol"], fontsize=7.5, color="#555555", wrap=True)
