"""What a search has come to: its trials as rows, the best one, the config's own."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from gptjax import config, files
from gptjax.reporting import origin, page
from gptjax.tuning import study as study_lib
from gptjax.tuning import trial as trial_lib

_STATES = {
    "COMPLETE": "done",
    "PRUNED": "stopped",
    "FAIL": "failed",
    "RUNNING": "under way",
}


@dataclasses.dataclass(frozen=True)
class Results:
    """A search's trials as they are by now.

    Attributes:
      measure: what they are compared by, the lower the better.
      keys: what is searched.
      rows: of each trial its `trial`, `state`, `value`, `step` and `note`, and under
        `values` those of the keys; `curve` holds its evaluations by their step.
      best: the row of the best one; None before one is done.
      own: the row of the config's own values, if they lie in the spaces.
      confirmed: what other seeds say of these two, if they were asked.
    """

    measure: str
    keys: tuple[str, ...]
    rows: list[dict[str, Any]]
    best: dict[str, Any] | None
    own: dict[str, Any] | None
    confirmed: str | None = None

    @property
    def are_under_way(self) -> bool:
        """Whether some trial has not ended."""
        return any(row["state"] == "under way" for row in self.rows)

    def told(self, row: dict[str, Any]) -> str:
        """A trial's values in a line."""
        return ", ".join(f"{key} {text(row['values'][key])}" for key in self.keys)


def read(study: study_lib.Study) -> Results:
    """The results of a study."""
    rows = [
        {
            "trial": each.number,
            "state": _STATES[each.state.name],
            "value": each.value if each.state.name == "COMPLETE" else None,
            "step": each.last_step,
            "values": study.values(each.params),
            "note": each.user_attrs.get("note", ""),
            "protocol": each.user_attrs.get("protocol"),
            "curve": dict(sorted(each.intermediate_values.items())),
        }
        for each in study.trials()
        if each.params.keys() >= {p.key for p in study.parameters}
    ]
    done = [row for row in rows if row["value"] is not None]
    own = [row for row in rows if row["values"] == study.own]
    return Results(
        measure=trial_lib.measure_of(study.settings),
        keys=tuple(each.key for each in study.parameters),
        rows=rows,
        best=min(done, key=lambda row: row["value"], default=None),
        own=min(own, key=lambda row: row["state"] == "failed", default=None),
    )


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for each trial, the texts under them."""
    titles = ["trial", *short(results.keys), results.measure, ""]
    lines = []
    for row in results.rows:
        notes = [row["state"]]
        if row["state"] == "stopped" and row["step"] is not None:
            notes = [f"stopped after {row['step']} steps"]
        notes += ["the best"] if row is results.best else []
        notes += ["the config's own"] if row is results.own else []
        lines.append(
            [
                str(row["trial"]),
                *(text(row["values"][key]) for key in results.keys),
                "" if row["value"] is None else f"{row['value']:.3f}",
                ", ".join(notes),
            ]
        )
    return titles, lines


def short(keys: Sequence[str]) -> list[str]:
    """Keys without the sections that all of them share."""
    parts = [key.split(".") for key in keys]
    shared = 0
    while all(len(each) > shared + 1 for each in parts) and (
        len({each[shared] for each in parts}) == 1
    ):
        shared += 1
    return [".".join(each[shared:]) for each in parts]


def text(value: Any) -> str:
    """A searched value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sentences(results: Results) -> list[str]:
    """What was found, and how much that is worth beside the config's own values."""
    best, own, measure = results.best, results.own, results.measure
    counts = {
        state: sum(row["state"] == state for row in results.rows)
        for state in _STATES.values()
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    found = [f"{len(results.rows)} trials: {told}."]
    if best is None:
        return [*found, "None is done, so there is no best one."]
    found += [
        f"Best: trial {best['trial']}, {measure} {best['value']:.3f} with "
        f"{results.told(best)}."
    ]
    if own is None:
        found += ["The config's own values lie outside the spaces and were not tried."]
    elif own is best:
        found += ["These are the config's own values: no other trial was better."]
    elif own["value"] is None:
        found += [f"The config's own values (trial {own['trial']}): {own['state']}."]
    else:
        share = 1 - best["value"] / own["value"]
        found += [
            f"The config's own values (trial {own['trial']}): {own['value']:.3f} with "
            f"{results.told(own)}; the best is {share:.1%} below."
        ]
    found += [results.confirmed] if results.confirmed else []
    return [*found, f"Measured by: {best['protocol']}."]


def to_csv(results: Results) -> str:
    """A line for each trial, unrounded."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["trial", "state", results.measure, "step", *results.keys, "note"])
    for row in results.rows:
        values = [row["values"][key] for key in results.keys]
        head = [row[key] for key in ("trial", "state", "value", "step")]
        writer.writerow([*head, *values, row["note"]])
    return written.getvalue()


def write(study: study_lib.Study, results: Results) -> None:
    """Writes `trials.csv`, and the best values' config as `best.yaml`."""
    files.write_text(study.folder / "trials.csv", to_csv(results))
    if results.best is not None:
        settings = trial_lib.settings_of(
            study, results.best["values"], study.folder / "best"
        )
        told = f"{results.measure} {results.best['value']:.3f}"
        files.write_text(
            study.folder / "best.yaml",
            f"# Trial {results.best['trial']} of {study.folder}: {told}.\n"
            + config.dump(settings),
        )


def made_page(
    results: Results, pictures: dict[str, str], folder: pathlib.Path
) -> page.Page:
    """The page of the search in `folder`.

    Args:
      pictures: file stems, and what they show.
    """
    images = [page.Image(shown, stem) for stem, shown in pictures.items()]
    sections = [page.Section("Pictures", images)] if images else []
    sections += [page.Section("Trials", [page.Table(*cells(results))])]
    sections += origin.sections(folder)
    return page.Page("A search", [page.Bullets(sentences(results))], sections)


def print_results(results: Results, folder: pathlib.Path) -> None:
    """Prints the trials, what was found, and where to look further."""
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print()
    console.print(page.rich_table(*cells(results)))
    for line in sentences(results):
        console.print(line)
    console.print()
    places = {
        "best.yaml": "the best values' config",
        "trials.csv": "every trial",
        "trials": "their run folders",
        "report": "table and pictures",
    }
    for name, what in places.items():
        if (folder / name).exists():
            # Not wrapped: a path is there to be copied.
            console.print(f"{folder / name}  {what}", soft_wrap=True)
