"""The figures of benchmarks: their ratios as bars, and a table beside them."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from gptjax import errors
from gptjax.reporting import page, pictures, run_folder, web

_SPREAD = ("median", "least", "most")
_LEAST = 1e-4
"""What a ratio of nothing is drawn as: a logarithmic axis has no 0."""
# Okabe and Ito's palette.
_MORE = {"color": "#0072B2", "label": "more is better"}
_LESS = {"color": "#E69F00", "label": "less is better"}


def write_benchmarks(paths: Sequence[pathlib.Path]) -> pathlib.Path:
    """Draws the ratios of some benchmarks, as `benchmarks.png` and `.svg`; the page.

    A ratio is whatever a file holds under a name with ` / ` in it: a number, or the
    median, least and most of several rounds. One of so much `/s` is better the more it
    is, every other one the less. The page, `benchmarks.md` and `.html`, goes beside the
    first file.

    Args:
      paths: JSON files of scripts/bench_*.py.

    Raises:
      UserError: a file that is none of a benchmark's.
    """
    found = {path: _read(path) for path in paths}
    folder = paths[0].parent
    ratios = {
        (figures["benchmark"], name): spread
        for figures in found.values()
        for name, spread in _ratios(figures)
    }
    _draw(ratios, folder / "benchmarks")
    sections = []
    for path, figures in found.items():
        rows = [_row(name, spread) for name, spread in _ratios(figures)]
        told = f"{path.name}: {_machine(figures)}"
        parts = [page.Table(["ratio", *_SPREAD], rows), told]
        sections.append(page.Section(figures["benchmark"], parts))
    lead = [page.Image("ratios of benchmarks", "benchmarks")]
    made = page.Page("Benchmarks", lead, sections)
    return web.write(folder, "benchmarks", made, kicker="gptjax beside its rivals")


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        figures = run_folder.read_object(path)
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror}") from error
    if not isinstance(figures, dict) or "benchmark" not in figures:
        raise errors.UserError(
            f"{path}: not the figures of a benchmark; scripts/bench_*.py write them "
            "with --out"
        )
    if not list(_ratios(figures)):
        raise errors.UserError(f"{path}: it holds no ratios")
    return figures


def _ratios(value: dict[str, Any], of: str = "") -> Iterator[tuple[str, dict]]:
    """The spreads of all ratios at any depth, named with what they are of."""
    for name, inner in value.items():
        if " / " in name:
            if isinstance(inner, int | float):
                inner = dict.fromkeys(_SPREAD, inner)
            if isinstance(inner, dict) and inner.keys() >= set(_SPREAD):
                yield of + name, inner
        elif isinstance(inner, dict):
            yield from _ratios(inner, "" if name == "ratios" else f"{name}: ")


def _row(name: str, spread: dict[str, float]) -> list[str]:
    return [name, *(_text(spread[key]) for key in _SPREAD)]


def _text(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _machine(figures: dict[str, Any]) -> str:
    """Where the figures were taken, in a line."""
    machine = figures.get("machine") or {}
    parts = [
        f"{machine['devices']} x {machine['device']}" if "device" in machine else "",
        f"{machine['cores']} cores of {machine['processor']}"
        if "processor" in machine
        else "",
        f"jax {machine['jax']}" if "jax" in machine else "",
        f"load {machine['load']:.1f}" if "load" in machine else "",
    ]
    return ", ".join(part for part in parts if part) or "of an unknown machine"


def _draw(ratios: dict[tuple[str, str], dict[str, float]], stem: pathlib.Path) -> None:
    """A bar for each ratio, from 1 to its median, with what it spread over.

    On a logarithmic axis, where twice as much and half as much look alike.
    """
    with pictures.picture(stem, width=9.0, height=1.5 + 0.32 * len(ratios)) as drawn:
        plot = drawn.subplots()
        plot.set_xscale("log")
        for place, ((_, name), spread) in enumerate(ratios.items()):
            median, least, most = (max(spread[key], _LEAST) for key in _SPREAD)
            kind = _MORE if "/s " in name else _LESS
            plot.barh(place, median - 1, left=1, height=0.62, **kind)
            plot.errorbar(
                median,
                place,
                xerr=[[median - least], [most - median]],
                color="#000000",
                linewidth=1.2,
                capsize=3,
            )
            plot.annotate(
                _text(spread["median"]),
                (max(most, 1), place),
                xytext=(5, 0),
                textcoords="offset points",
                verticalalignment="center",
                fontsize=8.5,
            )
        plot.axvline(1, **pictures.DENSE)
        labels = [f"{benchmark}: {name}" for benchmark, name in ratios]
        plot.set_yticks(range(len(labels)), labels, fontsize=8.5)
        plot.invert_yaxis()
        plot.margins(x=0.14)
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plot.grid(visible=False, axis="y")
        plot.set_xlabel("ratio: median, least and most of the rounds")
        handles, kinds = plot.get_legend_handles_labels()
        once = dict(zip(kinds, handles, strict=True))
        drawn.legend(once.values(), once, loc="outside upper center", ncols=2)
