"""Pictures of a report, or of a server's page, as a browser shows them.

    python scripts/screenshots.py runs/demo --out report.png
    python scripts/screenshots.py http://127.0.0.1:8000 --height 800 --out page.png

Several run folders are shown side by side, as `gptjax report` does. On a server's page
the models write first, and one token's probabilities are looked at. Needs Chromium or
Chrome, and playwright (extra `test`). Nothing is fetched from elsewhere.
"""

import argparse
import contextlib
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

from PIL import Image
from playwright import sync_api

from gptjax import errors, files, reporting

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
_COLORS = 128
"""Of the picture: enough for text and lines, at a third of the bytes."""


@contextlib.contextmanager
def opened(
    url: str, *, width: int, height: int, is_dark: bool
) -> Iterator[sync_api.Page]:
    """A page in a browser without a window.

    Raises:
      UserError: there is no browser, or it does not show the page.
    """
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise errors.UserError(f"no browser: none of {', '.join(_BROWSERS)} is there")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=_FLAGS)
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if is_dark else "light",
            )
            page.goto(url)
            yield page
        except sync_api.Error as error:
            raise errors.UserError(f"{url}: {error.message.splitlines()[0]}") from error


def write_with_models(page: sync_api.Page) -> None:
    """Lets a server's models write, and points at a token."""
    page.click("#write:enabled")
    page.wait_for_selector("#write:enabled", timeout=120_000)
    page.hover(".token >> nth=8")


def take(page: sync_api.Page, out: pathlib.Path) -> None:
    """Writes what is seen of a page as a PNG."""
    with tempfile.TemporaryDirectory() as folder, files.replacing(out) as beside:
        taken = pathlib.Path(folder) / "page.png"
        page.screenshot(path=taken)
        few = Image.open(taken).convert("RGB").quantize(_COLORS)
        few.save(beside, format="png", optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shown", nargs="+", help="run folders, or a server's URL")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a PNG")
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=1340)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    first, *others = given.shown
    is_served = first.startswith(("http://", "https://")) and not others
    try:
        with tempfile.TemporaryDirectory() as folder:
            url = first if is_served else _reported(given.shown, pathlib.Path(folder))
            size = {"width": given.width, "height": given.height}
            with opened(url, **size, is_dark=given.dark) as page:
                if is_served:
                    write_with_models(page)
                take(page, given.out)
    except errors.UserError as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


def _reported(runs: list[str], folder: pathlib.Path) -> str:
    """Where a fresh report of runs lies."""
    if len(runs) == 1:
        html = reporting.write(pathlib.Path(runs[0])).with_suffix(".html")
    else:
        html = folder / "report.html"
        reporting.write_several([pathlib.Path(run) for run in runs], html)
    return html.resolve().as_uri()


if __name__ == "__main__":
    sys.exit(main())
