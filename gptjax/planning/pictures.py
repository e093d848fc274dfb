"""Where a device's memory goes, as a picture."""

import pathlib

from gptjax.planning import planner
from gptjax.reporting import pictures

# Okabe and Ito's palette, in the order of the kinds; hatches tell them apart without.
_STYLES = (
    ("#0072B2", ""),
    ("#56B4E9", "//"),
    ("#999999", ""),
    ("#F0E442", ".."),
    ("#CCCCCC", "xx"),
    ("#D55E00", "\\\\"),
    ("#009E73", ""),
    ("#CC79A7", "++"),
)


def memory(plan: planner.Plan, stem: pathlib.Path) -> None:
    """A stacked bar for the config and for each suggestion, against the chip's limit.

    Args:
      stem: the path without its ending.
    """
    bars = [("as configured", plan.step)] if plan.step is not None else []
    bars += [
        ("\n".join(overrides[:3]).replace("mesh.", ""), step)
        for overrides, step in plan.suggestions
    ]
    with pictures.picture(stem, width=6.4, height=1.8 + 0.9 * len(bars)) as drawn:
        plot = drawn.subplots()
        kinds = list(bars[0][1].memory) if bars else []
        ends = [0.0] * len(bars)
        for kind, (color, hatch) in zip(kinds, _STYLES, strict=True):
            sizes = [step.memory[kind] / 1e9 for _, step in bars]
            if max(sizes) < 1e-3 * max(step.used for _, step in bars) / 1e9:
                continue
            plot.barh(
                range(len(bars)),
                sizes,
                left=ends,
                height=0.6,
                color=color,
                hatch=hatch,
                edgecolor="white",
                label=kind,
            )
            ends = [end + size for end, size in zip(ends, sizes, strict=True)]
        limit = plan.topology.usable_bytes
        if limit is not None:
            plot.axvline(limit / 1e9, label="usable", **pictures.DENSE)
        plot.set_yticks(range(len(bars)), [name for name, _ in bars])
        plot.invert_yaxis()
        plot.grid(axis="y", visible=False)
        plot.set_xlabel("GB of a device")
        plot.set_title(f"{plan.model} on {plan.topology.name}", loc="left")
        drawn.legend(loc="outside lower center", ncols=3)
