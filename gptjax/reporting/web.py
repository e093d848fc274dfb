"""A page as one HTML file that needs nothing else: no network, no script, no folder."""

import functools
import pathlib
import re
from typing import TYPE_CHECKING

from gptjax import files
from gptjax.reporting import page as page_lib

if TYPE_CHECKING:
    import jinja2


def write(
    folder: pathlib.Path, stem: str, page: page_lib.Page, *, kicker: str
) -> pathlib.Path:
    """Writes a page as `stem`.md and `stem`.html into the folder of its pictures.

    Args:
      kicker: what kind of page it is, in a few words above its title.

    Returns:
      The path of the Markdown.
    """
    files.write_text(folder / f"{stem}.html", html(page, folder, kicker=kicker))
    files.write_text(folder / f"{stem}.md", page.markdown())
    return folder / f"{stem}.md"


def html(page: page_lib.Page, folder: pathlib.Path, *, kicker: str) -> str:
    """The page in HTML, with the pictures that lie in `folder` in it.

    It is read by light and in the dark, printed, and heard: every text is text, every
    table has headings, and pictures say what they show.
    """
    template = _templates().get_template("page.html")
    pictures = {
        part.stem: _inline(folder / f"{part.stem}.svg", part.description)
        for part in _parts(page)
        if isinstance(part, page_lib.Image)
    }
    return template.render(page=page, kicker=kicker, pictures=pictures)


def _parts(page: page_lib.Page) -> list[page_lib.Part]:
    return [*page.lead, *(part for section in page.sections for part in section.parts)]


@functools.cache
def _templates() -> "jinja2.Environment":
    # Imported when a page is written: it takes a while.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("gptjax.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _inline(path: pathlib.Path, description: str) -> "jinja2.utils.markupsafe.Markup":
    """A picture of matplotlib's as an element of a page that may hold others.

    Names are made the page's own, since two pictures draw their first axes under the
    same; its size becomes an upper bound.
    """
    import markupsafe

    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # What is behind it is the page's own.
    behind = re.compile(r'(<path d="[^"]*"[^>]*style=")fill: #ffffff"')
    text = behind.sub(r'\1fill: none"', text)
    # Only what is referred to needs a name.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{path.stem}-", text)
    name = markupsafe.escape(description)
    width = re.search(r'width="([\d.]+)pt"', text)[1]
    head = f'<svg role="img" aria-label="{name}" style="max-width: {width}pt"'
    text = re.sub(r'^<svg ([^>]*?)height="[\d.]+pt"', rf"{head} \1", text, count=1)
    text = re.sub(r'width="[\d.]+pt"', 'width="100%"', text, count=1)
    return markupsafe.Markup(text)
