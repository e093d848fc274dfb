"""The line between two models: its table, its picture, its verdict."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from gptjax import evaluation, files
from gptjax.reporting import measures, page, pictures, web

if TYPE_CHECKING:
    import rich.table

NOTICEABLE = 0.02
"""Nats a token: a barrier lower than this, 2 % of perplexity, is called none."""


def sentence(found: evaluation.Connectivity) -> str:
    """The height of the barrier, and what it says of the two models."""
    first, last = found.losses[0], found.losses[-1]
    text = (
        f"Barrier: {found.barrier:.4f} nats a token, the highest loss on the way "
        f"({max(found.losses):.4f} at a = {found.highest:g}) above the mean of the two "
        f"models ({found.ends:.4f})."
    )
    if found.barrier < NOTICEABLE:
        return f"{text} None to speak of: the two lie in one valley of the loss."
    if max(found.losses) < max(first, last) + NOTICEABLE:
        return (
            f"{text} It comes of the models' own losses, {first:.4f} and {last:.4f}: "
            "nothing on the way is higher than both."
        )
    return f"{text} The two lie in different valleys of the loss."


def rich_table(found: evaluation.Connectivity) -> "rich.table.Table":
    """Loss and perplexity at every point of the way, for a terminal."""
    return page.rich_table(*_cells(found))


def write_connectivity(
    folder: pathlib.Path, found: evaluation.Connectivity
) -> pathlib.Path:
    """Writes `connectivity.json`, `.md`, `.html` and the picture; the `.md`."""
    files.make_folder(folder)
    picture(found, folder / "connectivity")
    parts = [sentence(found), page.Image("loss on the way", "connectivity")]
    parts += [page.Table(*_cells(found)), f"Loss by: {found.protocol}."]
    files.write_json(folder / "connectivity.json", found.figures())
    made = page.Page("Linear mode connectivity", parts)
    return web.write(folder, "connectivity", made, kicker="The line between two models")


def print_connectivity(found: evaluation.Connectivity) -> None:
    """Prints the table and what it comes to."""
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print(rich_table(found))
    console.print(sentence(found))
    console.print(f"Loss by: {found.protocol}.")


def picture(found: evaluation.Connectivity, stem: pathlib.Path) -> None:
    """Loss on the way, and the straight line that a barrier rises above.

    Args:
      stem: the path without its ending.
    """
    with pictures.picture(stem, width=6.4, height=4.0) as drawn:
        plot = drawn.subplots()
        finite = np.where(np.isfinite(found.losses), found.losses, np.nan)
        plot.plot(found.positions, finite, color="#0072B2", marker="o", label="loss")
        plot.axhline(found.ends, label="mean of the two models", **pictures.DENSE)
        plot.set_xlabel("a: from the first model (0) to the second (1)")
        plot.set_ylabel("loss, nats per token")
        plot.set_title(f"barrier {found.barrier:.4f}", loc="left", fontsize=11)
        plot.legend(loc="best")
        drawn.supxlabel(found.protocol, fontsize=7.5, color="#555555", wrap=True)


def _cells(found: evaluation.Connectivity) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{position:g}", f"{loss:.4f}", measures.PERPLEXITY.text(_exp(loss))]
        for position, loss in zip(found.positions, found.losses, strict=True)
    ]
    return ["a", "loss", "perplexity"], rows


def _exp(loss: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(loss))
