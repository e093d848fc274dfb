"""The figure that the models of a run are compared by."""

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib import axes


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of results, as reports write and draw it."""

    key: str
    """What it is called in the JSON of a run folder, and by readers."""
    loss_unit: str
    """What the loss beside it is a mean over."""
    rises: bool
    """Whether more is better."""

    def of(self, result: dict[str, Any] | None) -> float | None:
        """The figure of a result; None where it has none."""
        return (result or {}).get(self.key)

    def is_better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one > other if self.rises else one < other

    def text(self, value: float | None) -> str:
        """A value for readers; a perplexity in powers of ten where it is ruined."""
        if value is None:
            return "-"
        if not math.isfinite(value):
            return str(value)
        if self is ACCURACY:
            return f"{value:.2%}"
        return f"{value:.2f}" if value < 1e5 else f"{value:.1e}"

    def label_axis(self, plot: "axes.Axes") -> None:
        """Labels the y axis; a perplexity's is logarithmic where the values span more
        than a factor of 4.
        """
        plot.set_ylabel(self.key)
        if self is ACCURACY:
            plot.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            return
        values = [y for line in plot.lines for y in line.get_ydata() if y > 0]
        if values and max(values) > 4 * min(values):
            from matplotlib import ticker

            plot.set_yscale("log")
            plot.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            plot.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            plot.yaxis.set_minor_formatter(ticker.NullFormatter())


PERPLEXITY = Measure("perplexity", loss_unit="token", rises=False)
ACCURACY = Measure("accuracy", loss_unit="text", rises=True)


def find(records: Iterable[dict[str, Any] | None], prefix: str = "") -> Measure:
    """The measure that records have: of results, or of metrics with a prefix."""
    key = prefix + ACCURACY.key
    return ACCURACY if any(key in (each or {}) for each in records) else PERPLEXITY
