"""A learning curve's folder: its rows read, its table, its picture, its page."""

import csv
import io
import pathlib
import statistics
from typing import Any

import jax

from gptjax import config, errors, files
from gptjax.reporting import measures, origin, page, pictures, run_folder, web

_NEEDED = ("texts", "augmented", "seed", "accuracy", "f1", "loss", "protocol")
_STYLES = {
    False: {"color": "#0072B2", "marker": "o", "label": "as they are"},
    True: {"color": "#D55E00", "marker": "s", "label": "augmented"},
}

Rows = list[dict[str, Any]]


def is_one(folder: pathlib.Path) -> bool:
    """Whether a folder is a learning curve's, and not a single run's."""
    return (folder / "curve.json").exists()


def read_curve(folder: str | pathlib.Path) -> Rows:
    """The rows of the learning curve in `folder`, whole or still under way.

    Raises:
      UserError: if none is there, or its file is not what it should be.
    """
    path = pathlib.Path(folder) / "curve.json"
    if not path.exists():
        raise errors.UserError(f"{folder}: no learning curve: it has no curve.json")
    rows = run_folder.read_object(path).get("rows")
    if not isinstance(rows, list) or not rows:
        raise errors.UserError(f"{path}: holds no rows")
    for number, row in enumerate(rows):
        missing = [key for key in _NEEDED if key not in row]
        if missing:
            raise errors.UserError(f"{path}: row {number} has no {', '.join(missing)}")
    return rows


def write_curve(folder: str | pathlib.Path) -> pathlib.Path:
    """Writes `curve.csv` and `report/` into a learning curve's folder; the page's path.

    Raises:
      UserError: if `folder` is none.
    """
    folder = pathlib.Path(folder)
    rows = read_curve(folder)
    files.write_text(folder / "curve.csv", _to_csv(rows))
    with page.replacing(folder / "report") as beside:
        draw(rows, beside / "learning_curve")
        parts = [page.Table(*cells(rows)), _protocol(rows)]
        parts += _unfinished(rows, folder / "config.yaml")
        parts += [page.Image("accuracy by texts", "learning_curve")]
        made = page.Page("Learning curve", parts, origin.sections(folder))
        web.write(beside, "curve", made, kicker="Accuracy by number of texts")
    return folder / "report" / "curve.md"


def print_curve(folder: str | pathlib.Path) -> None:
    """Prints what the learning curve in `folder` came to, and where to look further.

    Of several processes only the first prints.

    Raises:
      UserError: if `folder` is none.
    """
    import rich.console

    if jax.process_index() > 0:
        return
    folder = pathlib.Path(folder)
    rows = read_curve(folder)
    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print()
    console.print(page.rich_table(*cells(rows)))
    console.print(_protocol(rows))
    console.print()
    places = {"curve.csv": "every run", "report": "table and picture"}
    for name, what in places.items():
        if (folder / name).exists():
            console.print(f"{folder / name}  {what}", soft_wrap=True)


def cells(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for each number of texts, the texts under them."""
    titles = ["texts", "training texts", "runs", "accuracy", "F1", "loss"]
    lines = [
        [
            f"{texts:,}",
            _STYLES[augmented]["label"],
            str(len(group)),
            _spread([100 * row["accuracy"] for row in group], " %"),
            _spread([100 * row["f1"] for row in group], " %"),
            _spread([row["loss"] for row in group], ""),
        ]
        for (texts, augmented), group in _groups(rows).items()
    ]
    return titles, lines


def draw(rows: Rows, stem: pathlib.Path) -> None:
    """Accuracy by the number of texts, a line with augmentation and one without.

    The bars are standard deviations over the seeds.
    """
    groups = _groups(rows)
    with pictures.picture(stem, width=6.4, height=4.2) as drawn:
        plot = drawn.subplots()
        for augmented, style in _STYLES.items():
            own = {
                texts: g for (texts, is_so), g in groups.items() if is_so == augmented
            }
            if not own:
                continue
            values = [[row["accuracy"] for row in group] for group in own.values()]
            plot.errorbar(
                list(own),
                [statistics.fmean(each) for each in values],
                [statistics.stdev(each) if len(each) > 1 else 0 for each in values],
                capsize=3,
                linewidth=1.6,
                **style,
            )
        plot.set_xscale("log")
        sizes = sorted({texts for texts, _ in groups})
        plot.set_xticks(sizes, [f"{size:,}" for size in sizes])
        plot.set_xticks([], minor=True)
        plot.set_xlabel("training texts")
        measures.ACCURACY.label_axis(plot)
        if any(augmented for _, augmented in groups):
            plot.legend(loc="best")
        drawn.supxlabel(rows[0]["protocol"], fontsize=7.5, color="#555555", wrap=True)


def _groups(rows: Rows) -> dict[tuple[int, bool], Rows]:
    """The runs that differ by the seed alone, from the fewest texts on."""
    found: dict[tuple[int, bool], Rows] = {}
    for row in sorted(rows, key=lambda row: (row["texts"], row["augmented"])):
        found.setdefault((row["texts"], row["augmented"]), []).append(row)
    return found


def _spread(values: list[float], unit: str) -> str:
    """Mean and, of several, standard deviation."""
    text = f"{statistics.fmean(values):.2f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.2f}"
    return text + unit


def _protocol(rows: Rows) -> str:
    """How all were measured; they share their validation texts."""
    return f"Mean ± standard deviation over seeds. Measured by: {rows[0]['protocol']}."


def _unfinished(rows: Rows, path: pathlib.Path) -> list[page.Notice]:
    """How many of the runs that a resolved config asks for have no row yet."""
    settings = config.load(path) if path.exists() else None
    if settings is None or settings.curve is None:
        return []
    kinds = 1 if settings.data.augmentation is None else 2
    count = len(settings.curve.sizes) * len(settings.curve.seeds) * kinds
    if len(rows) >= count:
        return []
    return [page.Notice(f"Not finished: {len(rows)} of {count} runs done.")]


def _to_csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
