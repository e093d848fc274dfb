"""The rows of a comparison as a table, as CSV, and in sentences."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptjax.pruning.comparing import jobs
from gptjax.reporting import measures, savings, tables

if TYPE_CHECKING:
    import rich.table

Row = dict[str, Any]
Rows = Sequence[Row]

COLUMNS = (
    "method",
    "pattern",
    "sparsity",
    "perplexity",
    "bytes_dense",
    "bytes_packed",
    "bytes_zipped",
    "step_seconds",
    "step_ratio",
    "decode_seconds",
    "decode_ratio",
    "method_seconds",
    "method_peak_bytes",
    "target_sparsity",
    "seed",
    "loss",
    "parameters",
    "protocol",
)
"""Of the CSV, in this order."""


def groups(rows: Rows) -> list[list[Row]]:
    """Rows that differ in nothing but their seed, in the order of their methods.

    Within a method and pattern the sparsity that was asked for rises.
    """
    found: dict[tuple[str, str], dict[float, list[Row]]] = {}
    for row in rows:
        of_method = found.setdefault((row["method"], row["pattern"]), {})
        of_method.setdefault(_target(row), []).append(row)
    return [own[target] for own in found.values() for target in sorted(own)]


def curves(rows: Rows) -> dict[str, list[list[Row]]]:
    """The groups of each method and pattern, by what the two are called together."""
    found: dict[str, list[list[Row]]] = {}
    for group in groups(rows):
        found.setdefault(label(group[0]), []).append(group)
    return found


def label(row: Row) -> str:
    """The method, and the pattern where it is not the plain one."""
    plain = row["pattern"] == "unstructured" or row["pattern"] in row["method"]
    return row["method"] if plain else f"{row['method']} {row['pattern']}"


def values(group: Rows, key: str) -> list[float]:
    """What the rows of a group have under a key, those that have none left out."""
    return [row[key] for row in group if row.get(key) is not None]


def mean(group: Rows, key: str) -> float | None:
    """The mean over seeds; None where no row has it."""
    found = values(group, key)
    return math.fsum(found) / len(found) if found else None


def deviation(group: Rows, key: str) -> float | None:
    """The standard deviation over seeds, of n - 1; None for one seed or an infinity."""
    found = values(group, key)
    if len(found) < 2 or not all(map(math.isfinite, found)):
        return None
    return statistics.stdev(found)


def to_csv(rows: Rows) -> str:
    """Every row unrounded, a line for each; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row.get(key) for key in COLUMNS] for row in rows)
    return text.getvalue()


def cells(rows: Rows, dense: Row) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for the dense model and each group, the texts under them.

    Means over seeds, of perplexity with the standard deviation; bytes packed as a
    share of the dense model's; times over the dense model's.
    """
    found = groups(rows)
    titles = ["method", "pattern", "sparsity", "perplexity", "packed", "zipped"]
    titles += ["step", "decode", "seconds", "peak"]
    lines = []
    if dense:
        first = {"method": "dense", "pattern": "", "sparsity": 0.0, **dense}
        first |= {"step_ratio": 1.0, "decode_ratio": 1.0}
        lines = [_line([first], dense)]
    lines += [_line(group, dense) for group in found]
    seeds = [len(group) for group in found]
    if max(seeds, default=1) > 1:
        titles.append("seeds")
        counts = ["", *map(str, seeds)] if dense else list(map(str, seeds))
        for line, count in zip(lines, counts, strict=True):
            line.append(count)
    return titles, lines


def rich_table(rows: Rows, dense: Row) -> "rich.table.Table":
    """The table for a terminal: narrower, method and pattern in one column."""
    import rich.box
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    shown = ("sparsity", "perplexity", "packed", "step", "decode", "seconds", "peak")
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    titles, lines = cells(rows, dense)
    names = [*(["dense"] if dense else []), *(label(g[0]) for g in groups(rows))]
    for name, line in zip(names, lines, strict=True):
        texts = dict(zip(titles, line, strict=True))
        texts["packed"] = texts["packed"].split(",")[0]
        table.add_row(name, *(texts[title] for title in shown))
    return table


def sentences(rows: Rows, dense: Row) -> list[str]:
    """The order of the methods at each sparsity, what times say, and the protocol.

    Args:
      dense: of the model as it came; empty where that is not known yet.
    """
    seeds = sorted({len(group) for group in groups(rows)})
    counts = " or ".join(map(str, seeds))
    over = [f"Means and standard deviations over {counts} seeds."]
    return [
        *_orders(rows),
        *_times(rows),
        *_protocol([dense, *rows]),
        *(over if seeds and max(seeds) > 1 else []),
    ]


def _target(row: Row) -> float:
    target = row.get("target_sparsity")
    return round(row["sparsity"] if target is None else target, 6)


def _line(group: Rows, dense: Row) -> list[str]:
    seconds, peak = mean(group, "method_seconds"), mean(group, "method_peak_bytes")
    return [
        group[0]["method"],
        group[0]["pattern"],
        f"{mean(group, 'sparsity'):.1%}",
        spread_text(group),
        _bytes(group, "bytes_packed", dense.get("bytes_dense")),
        _bytes(group, "bytes_zipped", None),
        _ratio(group, "step_ratio"),
        _ratio(group, "decode_ratio"),
        "-" if seconds is None else f"{seconds:.3g}",
        "-" if peak is None else tables.bytes_text(round(peak)),
    ]


def spread_text(group: Rows) -> str:
    """The perplexity of a group: mean and, over several seeds, standard deviation."""
    text = measures.PERPLEXITY.text(mean(group, "perplexity"))
    spread = deviation(group, "perplexity")
    return text if spread is None else f"{text} ± {measures.PERPLEXITY.text(spread)}"


def _bytes(group: Rows, key: str, whole: int | None) -> str:
    count = mean(group, key)
    if count is None:
        return "-"
    text = tables.bytes_text(round(count))
    return f"{text}, {count / whole:.0%}" if whole else text


def _ratio(group: Rows, key: str) -> str:
    ratio = mean(group, key)
    return "-" if ratio is None else f"{ratio:.2f}"


def _orders(rows: Rows) -> list[str]:
    """For each sparsity that several methods reached, the methods from the best on."""
    by_target: dict[float, list[list[Row]]] = {}
    for group in groups(rows):
        by_target.setdefault(_target(group[0]), []).append(group)
    said = []
    for target, found in sorted(by_target.items()):
        if len(found) < 2:
            continue
        found.sort(key=lambda group: mean(group, "perplexity"))
        order = ", ".join(f"{label(group[0])} {spread_text(group)}" for group in found)
        said.append(f"At {target:.1%}, best first: {order}.")
    return said


def _times(rows: Rows) -> list[str]:
    """Whether zeros made anything faster, and what removal did."""
    said = []
    for what, name in (("step_ratio", "A training step"), ("decode_ratio", "Decoding")):
        zeros = values([r for r in rows if r["pattern"] != jobs.REMOVED], what)
        gone = values([r for r in rows if r["pattern"] == jobs.REMOVED], what)
        text = ""
        if zeros and max(zeros) < 1 - savings.NOTICEABLE:
            text = f"{name} of masked models takes {_range(zeros)} the dense time."
        elif zeros:
            text = (
                f"{name}: no speed-up from zeros alone on this backend: masked models "
                f"take {_range(zeros)} the dense time."
            )
        if gone and text:
            text += f" Where weights are removed it takes {_range(gone)} that."
        elif gone:
            text = f"{name} of cut models takes {_range(gone)} the dense time."
        if text:
            said.append(text)
    return said


def _range(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return f"{low} times" if low == high else f"{low} to {high} times"


def _protocol(rows: Rows) -> list[str]:
    protocols = dict.fromkeys(row["protocol"] for row in rows if row.get("protocol"))
    if not protocols:
        return []
    if len(protocols) == 1:
        return [f"Perplexity by: {next(iter(protocols))}."]
    return [
        "Perplexities of different protocols, which do not compare: "
        + "; ".join(protocols)
        + "."
    ]
