"""A comparison's run folder: its rows read, its table, its page, its CSV."""

import dataclasses
import pathlib
from typing import Any

import jax

from gptjax import config, errors, files
from gptjax.pruning.comparing import jobs
from gptjax.reporting import (
    comparison_pictures,
    comparison_table,
    origin,
    page,
    run_folder,
    web,
)

_NEEDED = ("method", "pattern", "sparsity", "perplexity")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What stands in the folder of a comparison, whole or still under way.

    Attributes:
      rows: what each `rows/*.json` holds, in the order of their names.
      dense: the figures of the model as it came; empty before there are any.
    """

    rows: list[dict[str, Any]]
    dense: dict[str, Any]


def is_one(folder: str | pathlib.Path) -> bool:
    """Whether a folder is a comparison's, and not a single run's."""
    folder = pathlib.Path(folder)
    return (folder / "compare.json").exists() or (folder / "rows").is_dir()


def read_comparison(folder: str | pathlib.Path) -> Comparison:
    """The rows of the comparison in `folder`.

    Raises:
      UserError: if no comparison is there, or a file is not what it should be.
    """
    folder = pathlib.Path(folder)
    paths = sorted((folder / "rows").glob("*.json"))
    about = folder / "compare.json"
    if not paths and not about.exists():
        raise errors.UserError(
            f"{folder}: no comparison: it has neither compare.json nor rows/*.json"
        )
    rows = []
    for path in paths:
        row = run_folder.read_object(path)
        missing = [key for key in _NEEDED if key not in row]
        if missing:
            raise errors.UserError(f"{path}: a row without {', '.join(missing)}")
        rows.append(row)
    dense = run_folder.read_object(about).get("dense") if about.exists() else None
    return Comparison(rows, dense or {})


def write_comparison(folder: str | pathlib.Path) -> pathlib.Path:
    """Writes `compare.csv` and `report/` into a comparison's folder; the page's path.

    Works on a comparison that is still under way, too. What stood in `report/` before
    is replaced as a whole.

    Raises:
      UserError: if `folder` is no comparison's.
    """
    folder = pathlib.Path(folder)
    found = read_comparison(folder)
    files.write_text(folder / "compare.csv", comparison_table.to_csv(found.rows))
    with page.replacing(folder / "report") as beside:
        made = _page(found, folder, beside)
        web.write(beside, "compare", made, kicker="Comparison of methods")
    return folder / "report" / "compare.md"


def print_comparison(folder: str | pathlib.Path) -> None:
    """Prints what the comparison in `folder` came to, and where to look further.

    Of several processes only the first prints.

    Raises:
      UserError: if `folder` is no comparison's.
    """
    import rich.console

    if jax.process_index() > 0:
        return
    folder = pathlib.Path(folder)
    found = read_comparison(folder)
    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print()
    console.print(comparison_table.rich_table(found.rows, found.dense))
    console.print()
    for line in comparison_table.sentences(found.rows, found.dense):
        console.print(line)
    console.print()
    places = {"compare.csv": "every row", "report": "table and pictures"}
    for name, what in places.items():
        if (folder / name).exists():
            console.print(f"{folder / name}  {what}", soft_wrap=True)


def _unfinished(rows: list[dict[str, Any]], path: pathlib.Path) -> list[page.Notice]:
    """How many of the runs that a resolved config asks for have no rows yet."""
    if not path.exists():
        return []
    planned = jobs.planned(config.load(path))
    done = {row.get("run") for row in rows}
    count = sum(f"runs/{job.name}" in done for job in planned)
    if count == len(planned):
        return []
    return [page.Notice(f"Not finished: {count} of {len(planned)} runs done.")]


def _page(found: Comparison, run: pathlib.Path, folder: pathlib.Path) -> page.Page:
    """The page of the comparison in `run`; draws its pictures into `folder`."""
    rows, dense = found.rows, found.dense
    lead = [
        page.Table(*comparison_table.cells(rows, dense)),
        page.Bullets(comparison_table.sentences(rows, dense)),
        *_unfinished(rows, run / "config.yaml"),
    ]
    sections = []
    if rows:
        draw = comparison_pictures
        draw.perplexity_sparsity(rows, dense, folder / "perplexity_sparsity")
        draw.perplexity_bytes(rows, dense, folder / "perplexity_bytes")
        pictures = [
            page.Image("perplexity against sparsity", "perplexity_sparsity"),
            page.Image("perplexity against packed bytes", "perplexity_bytes"),
        ]
        sections += [page.Section("Perplexity", pictures)]
        if draw.method_cost(rows, folder / "method_cost"):
            picture = page.Image("seconds and memory of each method", "method_cost")
            sections += [page.Section("What choosing the weights took", [picture])]
    return page.Page("Comparison", lead, [*sections, *origin.sections(run)])
