"""How a classifier's labels fare: a table of scores, a map of what it confuses."""

import pathlib
from typing import Any

import numpy as np

from gptjax import evaluation, files
from gptjax.reporting import page, pictures, web

_FEW = 12
"""Up to so many labels, counts stand in the map."""


def sections(result: dict[str, Any] | None, folder: pathlib.Path) -> list[page.Section]:
    """Both, of a result as `summary.json` keeps it; the map is drawn into `folder`.

    Nothing where the result is none of a classifier.
    """
    if not result or "confusion" not in result:
        return []
    draw(result["labels"], result["confusion"], folder / "confusion")
    parts = [page.Table(*cells(result)), page.Image("labels confused", "confusion")]
    return [page.Section("Labels", parts)]


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for each label and the mean of all, the texts under them."""
    scores = evaluation.label_scores(result["labels"], result["confusion"])
    mean = evaluation.weighted_scores(scores)
    titles = ["label", "precision", "recall", "F1", result.get("unit", "texts")]
    rows = [
        [name, f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", f"{s.texts:,}"]
        for name, s in [*scores.items(), ("weighted mean", mean)]
    ]
    return titles, rows


def counts(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The confusion itself as a table: true labels down, given ones across."""
    rows = [
        [label, *(f"{count:,}" for count in row)]
        for label, row in zip(result["labels"], result["confusion"], strict=True)
    ]
    return ["true \\ given", *result["labels"]], rows


def draw(labels: list[str], confusion: list[list[int]], stem: pathlib.Path) -> None:
    """A map of what fraction of each true label was given each label."""
    values = np.array(confusion, np.float64)
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    side = 2.2 + 0.6 * min(len(labels), 20)
    with pictures.picture(stem, width=side + 1.4, height=side) as drawn:
        plot = drawn.subplots()
        shown = plot.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        plot.grid(visible=False)
        # A dollar would begin a formula.
        ticks = [label.replace("$", r"\$") for label in labels]
        plot.set_xticks(range(len(labels)), ticks, rotation=45, ha="right")
        plot.set_yticks(range(len(labels)), ticks)
        plot.set_xlabel("given")
        plot.set_ylabel("true")
        if len(labels) <= _FEW:
            for (row, column), share in np.ndenumerate(shares):
                plot.text(
                    column,
                    row,
                    f"{confusion[row][column]:,}",
                    ha="center",
                    va="center",
                    color="black" if share > 0.6 else "white",
                )
        bar = drawn.colorbar(shown, ax=plot, label="of a true label")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def print_classification(result: evaluation.Classification) -> None:
    """Prints scores, confusion and protocol."""
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    figures = result.to_json()
    for titles, rows in (cells(figures), counts(figures)):
        console.print(page.rich_table(titles, rows))
    console.print(
        f"accuracy   {result.accuracy:.4f} ({result.loss:.5f} nats a "
        f"{result.unit.removesuffix('s')})\n"
        f"F1         {result.weighted.f1:.4f}\n"
        f"protocol   {result.protocol()}"
    )


def write_classification(
    folder: str | pathlib.Path, result: evaluation.Classification
) -> pathlib.Path:
    """Writes a page, its picture and its figures into a folder; its Markdown."""
    folder = files.make_folder(pathlib.Path(folder))
    figures = result.to_json()
    files.write_json(folder / "classification.json", figures)
    lead = (
        f"Accuracy {result.accuracy:.4f}, F1 {result.weighted.f1:.4f}, "
        f"{result.loss:.4f} nats a {result.unit.removesuffix('s')}. Measured by: "
        f"{result.protocol()}."
    )
    made = page.Page(result.text, [lead], sections(figures, folder))
    return web.write(folder, "classification", made, kicker="Classification")
