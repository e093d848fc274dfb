"""Progress bars of evaluations."""

from collections.abc import Iterable, Iterator
from typing import Any


def track(
    items: Iterable[Any], *, total: int, what: str = "evaluating"
) -> Iterator[Any]:
    """The items, with a progress bar on stderr while they are consumed."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    return rich.progress.track(items, what, total=total, console=console)
