"""What every page of a report is made of, and the folder that it lies in.

Each part knows itself in Markdown; `web` makes HTML of all. What only a browser can
show well is nothing in Markdown.
"""

import contextlib
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

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


@dataclasses.dataclass(frozen=True)
class Notice:
    """A sentence that no reader may miss."""

    kind: ClassVar[str] = "notice"
    text: str

    def markdown(self) -> str:
        return f"**{self.text}**"


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    lines: Sequence[str]

    def markdown(self) -> str:
        return "\n".join(f"- {line}" for line in self.lines)


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture that lies beside the page, as `stem`.png and `stem`.svg."""

    kind: ClassVar[str] = "image"
    description: str
    stem: str

    def markdown(self) -> str:
        return f"![{self.description}]({self.stem}.png)"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, every column to the right; in HTML the first names its row.

    Attributes:
      is_text: whether its cells are texts and not figures, and go to the left.
    """

    kind: ClassVar[str] = "table"
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False

    def markdown(self) -> str:
        if not self.rows:
            return ""
        lines = [
            [cell.replace("|", r"\|") for cell in line]
            for line in (self.titles, *self.rows)
        ]
        lines.insert(1, ["---:"] * len(self.titles))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The few figures that a page is about: each its name, value and a note."""

    kind: ClassVar[str] = "figures"
    items: Sequence[tuple[str, str, str]]

    def markdown(self) -> str:
        return ""  # the sentences and tables say the same


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of a `HeatMap`: its text, its colour, and that of the text on it."""

    text: str
    color: str
    ink: str


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Tables of coloured cells, of which a reader chooses one; a picture in Markdown.

    Attributes:
      maps: what each is called, its column titles and its rows: a name and cells.
      image: of the last of them.
    """

    kind: ClassVar[str] = "heat"
    maps: Sequence[tuple[str, Sequence[str], Sequence[tuple[str, Sequence[Cell]]]]]
    image: Image

    def markdown(self) -> str:
        return self.image.markdown()


@dataclasses.dataclass(frozen=True)
class Samples:
    """What models wrote: a prompt, and under the name of each model its text.

    Attributes:
      others: what there is no room for at once.
    """

    kind: ClassVar[str] = "samples"
    prompt: str
    texts: Sequence[tuple[str, str]]
    others: Sequence[tuple[str, str]] = ()

    def markdown(self) -> str:
        parts = [f"After the prompt {self.prompt!r}:"]
        for when, text in self.texts:
            text = text.strip("\n")
            # A fence longer than any in the text, which a model may well write.
            longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            parts += [f"{when.capitalize()}:", f"{fence}text\n{text}\n{fence}"]
        return "\n\n".join(parts)


@dataclasses.dataclass(frozen=True)
class Folded:
    """A long text that is opened to be read."""

    kind: ClassVar[str] = "folded"
    title: str
    text: str

    def markdown(self) -> str:
        return ""  # it lies in the run folder


Part = str | Notice | Bullets | Image | Table | Figures | HeatMap | Samples | Folded
"""A plain string is a paragraph."""


@dataclasses.dataclass(frozen=True)
class Section:
    """Parts under a heading.

    Attributes:
      is_for_web: whether Markdown goes without it.
    """

    title: str
    parts: Sequence[Part]
    is_for_web: bool = False

    def markdown(self) -> str:
        body = "" if self.is_for_web else join(self.parts)
        return f"## {self.title}\n\n{body}" if body else ""


@dataclasses.dataclass(frozen=True)
class Page:
    """A title, what stands right under it, and sections."""

    title: str
    lead: Sequence[Part]
    sections: Sequence[Section] = ()

    def markdown(self) -> str:
        return join([f"# {self.title}", *self.lead, *self.sections]) + "\n"


def join(parts: Sequence[Part | Section]) -> str:
    """The parts that are not empty in Markdown, a line free between them."""
    texts = (part if isinstance(part, str) else part.markdown() for part in parts)
    return "\n\n".join(text for text in texts if text)


def rich_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]]
) -> "rich.table.Table":
    """A table for a terminal."""
    import rich.table

    found = rich.table.Table()
    for title in titles:
        found.add_column(title, justify="right")
    for row in rows:
        found.add_row(*row)
    return found
