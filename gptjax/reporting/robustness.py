"""Models on noised texts: their table, their curves, what noise costs which of them."""

import pathlib
from typing import TYPE_CHECKING, Any

from gptjax import evaluation, files
from gptjax.reporting import naming, page, pictures, web

if TYPE_CHECKING:
    import rich.table
    from matplotlib import axes

_WIDTH = 3.1
"""Of a panel, in inches."""
_LEGEND = 30
"""How many signs of names have room in one line above a panel."""


def sentences(found: evaluation.Robustness) -> list[str]:
    """For each noise at its highest rate, what it costs the models."""
    if not found.rates:
        return []
    rate, first, names = found.rates[-1], found.models[0], _short(found)
    lines = []
    for noise in found.noises:
        own = _amount(found, evaluation.Spread.of(found.cost(first, noise, rate)))
        told = f"{noise.capitalize()} in {_percent(rate)} of the words cost "
        told += f"{names[first]} {own} {_unit(found)}"
        if len(found.models) == 1:
            lines.append(f"{told}.")
        for model in found.models[1:]:
            cost = evaluation.Spread.of(found.cost(model, noise, rate))
            extra = evaluation.Spread.of(found.extra(model, noise, rate))
            size = evaluation.Spread(abs(extra.mean), extra.sd)
            line = f"{told} and {names[model]} {_amount(found, cost)}: "
            line += f"{_amount(found, size)} {'more' if extra.mean > 0 else 'less'}"
            if extra.sd is not None and size.mean <= 2 * extra.sd:
                line += ", within two deviations of the seeds"
            clean, noised = (_behind(found, model, noise, each) for each in (0, rate))
            lines.append(
                f"{line}. {names[model]} is {clean} on the clean text, {noised} on the "
                "noised ones."
            )
    return lines


def _behind(found: evaluation.Robustness, model: str, noise: str, rate: float) -> str:
    spread = evaluation.Spread.of(found.behind(model, noise, rate))
    size = evaluation.Spread(abs(spread.mean), spread.sd)
    return f"{_amount(found, size)} {'ahead' if spread.mean < 0 else 'behind'}"


def rich_table(found: evaluation.Robustness) -> "rich.table.Table":
    """The figures of every model under every noise, for a terminal."""
    return page.rich_table(*_cells(found))


def write_robustness(
    folder: pathlib.Path, found: evaluation.Robustness
) -> pathlib.Path:
    """Writes `robustness.json`, `.md`, `.html` and the picture; the `.md`."""
    files.make_folder(folder)
    picture(found, folder / "robustness")
    parts = [page.Bullets(sentences(found))]
    parts += [page.Image(f"{_title(found)} against the rate of noise", "robustness")]
    parts += [page.Table(*_cells(found)), _folders(found)]
    parts += [f"By: {found.protocol}.", _reading(found)]
    files.write_json(folder / "robustness.json", found.figures())
    made = page.Page("Under noise", parts)
    return web.write(folder, "robustness", made, kicker="Models on noised texts")


def print_robustness(found: evaluation.Robustness) -> None:
    """Prints the table and what it comes to."""
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print(rich_table(found))
    for line in (*sentences(found), _folders(found), f"By: {found.protocol}."):
        if line:
            console.print(line)


def picture(found: evaluation.Robustness, stem: pathlib.Path) -> None:
    """The figure against the rate, a panel for each noise and a line for each model;
    below, how far each is behind the first on the same texts.

    Args:
      stem: the path without its ending.
    """
    has_others = len(found.models) > 1
    width, height = 1.2 + _WIDTH * len(found.noises), 5.6 if has_others else 3.6
    with pictures.picture(stem, width=width, height=height) as drawn:
        plots = drawn.subplots(
            1 + has_others,
            len(found.noises),
            sharex=True,
            sharey="row",
            squeeze=False,
            height_ratios=[3, 2][: 1 + has_others],
        )
        for column, noise in enumerate(found.noises):
            above, below = plots[0, column], plots[-1, column]
            above.set_title(noise, loc="left", fontsize=11)
            for number, model in enumerate(found.models):
                _line(above, found, model, noise, number, of=found.values)
                if has_others:
                    _line(below, found, model, noise, number, of=found.behind)
            below.set_xlabel("words touched")
            below.set_xticks([0, *found.rates])
            below.xaxis.set_major_formatter(lambda value, _: _percent(value))
        _label(plots[:, 0], found)
        handles, names = plots[0, 0].get_legend_handles_labels()
        fits = sum(map(len, names)) < _LEGEND * len(found.noises)
        drawn.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=len(names) if fits else 1,
            fontsize=9,
        )
        drawn.supxlabel(found.protocol, fontsize=7.5, color="#555555", wrap=True)


def _line(
    plot: "axes.Axes",
    found: evaluation.Robustness,
    model: str,
    noise: str,
    number: int,
    *,
    of: Any,
) -> None:
    """A model's means from rate 0 on, with a bar for one deviation either way."""
    rates = (0.0, *found.rates)
    spreads = [evaluation.Spread.of(of(model, noise, rate)) for rate in rates]
    plot.errorbar(
        rates,
        [each.mean for each in spreads],
        [each.sd or 0.0 for each in spreads],
        color=pictures.COLORS[number % len(pictures.COLORS)],
        marker=pictures.MARKERS[number % len(pictures.MARKERS)],
        markersize=5,
        linewidth=1.8,
        elinewidth=1,
        capsize=3,
        label=_short(found)[model],
    )


def _label(plots: Any, found: evaluation.Robustness) -> None:
    """The y axes of the panels on the left."""
    plots[0].set_ylabel(_title(found))
    if found.rises:
        plots[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if len(plots) > 1:
        plots[1].set_ylabel("behind\nthe first model")
        if found.rises:
            plots[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            plots[1].set_ylabel("points behind\nthe first model")


def _cells(found: evaluation.Robustness) -> tuple[list[str], list[list[str]]]:
    titles = ["noise", "rate", "model", _title(found)]
    titles += ["F1"] * found.rises + ["noise costs"]
    titles += ["behind the first"] * (len(found.models) > 1)
    cases = [("none", 0.0)] + [(n, rate) for n in found.noises for rate in found.rates]
    rows, names = [], _short(found)
    for noise, rate in cases:
        for model in found.models:
            row = [noise, _percent(rate), names[model]]
            row.append(_value(found, model, noise, rate, found.key))
            if found.rises:
                row.append(_value(found, model, noise, rate, "f1"))
            cost, behind = (
                _amount(found, evaluation.Spread.of(of(model, noise, rate)))
                for of in (found.cost, found.behind)
            )
            row.append(cost if rate else "-")
            if len(found.models) > 1:
                row.append("-" if model == found.models[0] else behind)
            rows.append(row)
    return titles, rows


def _value(
    found: evaluation.Robustness, model: str, noise: str, rate: float, key: str
) -> str:
    spread = evaluation.Spread.of(found.values(model, noise, rate, key))
    return _amount(found, spread) + (" %" if found.rises else "")


def _amount(found: evaluation.Robustness, spread: evaluation.Spread) -> str:
    """A mean with its deviation, of fractions in percent."""
    scale, digits = (100, 2) if found.rises else (1, 3)
    told = f"{scale * spread.mean:.{digits}f}"
    return told if spread.sd is None else f"{told} ± {scale * spread.sd:.{digits}f}"


def _title(found: evaluation.Robustness) -> str:
    return found.key.replace("_", " ")


def _unit(found: evaluation.Robustness) -> str:
    return "points of accuracy" if found.rises else "bits per byte"


def _reading(found: evaluation.Robustness) -> str:
    """What is to be known before conclusions are drawn."""
    told = [
        "A model that knows less has less to lose: read what noise costs beside the "
        "figures themselves.",
        "The deviation is that of the noise alone: another text would give others.",
    ]
    if not found.rises:
        told.insert(
            0,
            "Noise surprises every model: what it costs one says little, what it costs "
            "one more than another is the models' own.",
        )
    return " ".join(told)


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _short(found: evaluation.Robustness) -> dict[str, str]:
    return naming.short(found.models, at_least=2)


def _folders(found: evaluation.Robustness) -> str:
    """Which models the short names are, where names are shortened."""
    told = [
        f"{short} is {name}" for name, short in _short(found).items() if short != name
    ]
    return f"{'; '.join(told)}." if told else ""
