"""The rounds of a run as a table: for the terminal, for Markdown, as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptjax.reporting import measures, page

if TYPE_CHECKING:
    import rich.table

Rounds = Sequence[dict[str, Any]]


def bytes_text(count: int) -> str:
    """A number of bytes in decimal units, e.g. `12.4 MB`."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} bytes"


def controls(rounds: Rounds) -> list[str]:
    """The kinds of controls that any round has, in the order of their first use."""
    return list(dict.fromkeys(kind for r in rounds for kind in r.get("controls") or ()))


def control(round_: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The result of a round's control; None where the round has none."""
    return (round_.get("controls") or {}).get(kind)


def cells(rounds: Rounds) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for each round, the texts under them.

    `sparsity` is of the prunable weights, `of all` of all weights; a control's
    column is its perplexity or accuracy; bytes are packed ones and their share of round
    0's dense. Runs that cut have the model's shape and number of weights too.
    """
    kinds, measure = controls(rounds), measures.find(rounds)
    is_cut = any("shape" in r for r in rounds)
    has_zeros = not is_cut or any(r["zeros"] for r in rounds)

    def row(r):
        yield "round", str(r["round"])
        if is_cut:
            yield "shape", _shape_text(r["shape"])
            yield "weights", f"{r['parameters']:,}"
        if has_zeros:
            yield "sparsity", f"{r['sparsity']:.1%}"
            yield "of all", f"{r['model_sparsity']:.1%}"
        yield measure.key, measure.text(measure.of(r))
        for kind in kinds:
            yield kind, measure.text(measure.of(control(r, kind)))
        share = r["bytes_packed"] / rounds[0]["bytes_dense"]
        yield "bytes packed", f"{bytes_text(r['bytes_packed'])}, {share:.0%}"

    rows = [list(row(r)) for r in rounds]
    titles = [title for title, _ in rows[0]]
    return titles, [[text for _, text in row] for row in rows]


def _shape_text(shape: dict[str, int]) -> str:
    """The shape of a model from which something was cut."""
    parts = [f"{shape[key]} {key}" for key in ("layers", "heads", "neurons")]
    return ", ".join([*parts, f"width {shape['width']}"])


def rich_table(rounds: Rounds) -> "rich.table.Table":
    """The table for a terminal."""
    return page.rich_table(*cells(rounds))


def to_csv(rounds: Rounds) -> str:
    """The figures behind the table, unrounded, one line for each round."""
    kinds, measure = controls(rounds), measures.find(rounds)
    keys = ["round", "target_sparsity", "sparsity", "model_sparsity", measure.key]
    sizes = ["bytes_dense", "bytes_packed"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *(f"{measure.key}_{kind}" for kind in kinds), *sizes])
    for r in rounds:
        writer.writerow(
            [
                *(r.get(key) for key in keys),
                *(measure.of(control(r, kind)) for kind in kinds),
                *(r[key] for key in sizes),
            ]
        )
    return text.getvalue()
