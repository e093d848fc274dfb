"""What every page of a report is made of, and the folder that it lies in."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write a report into, which takes the place of `folder` at the end."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def join(parts: Sequence[str]) -> str:
    """The parts that are not empty, a line free between them."""
    return "\n\n".join(part for part in parts if part) + "\n"


def bullets(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def image(description: str, stem: str) -> str:
    """A picture that lies beside the page."""
    return f"![{description}]({stem}.png)"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, every column to the right."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (titles, *rows)]
    lines.insert(1, ["---:"] * len(titles))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]]
) -> "rich.table.Table":
    """The same table for a terminal."""
    import rich.table

    found = rich.table.Table()
    for title in titles:
        found.add_column(title, justify="right")
    for row in rows:
        found.add_row(*row)
    return found
