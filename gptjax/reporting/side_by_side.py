"""Several runs on one page: their figures, their curves, what their configs differ in.

Only figures of one protocol compare; runs of different ones are kept apart, and the
page says so.
"""

import dataclasses
import pathlib
import string
import tempfile
from collections.abc import Sequence
from typing import Any

from gptjax import config, errors, files
from gptjax.reporting import (
    comparison,
    curve,
    measures,
    naming,
    origin,
    page,
    run_folder,
    samples,
    savings,
    side_by_side_pictures,
    statements,
    tables,
    web,
)

_OWN = "out"
"""The key of a config that every run has another value of."""
_NONE = "none"


@dataclasses.dataclass(frozen=True)
class Named:
    """A run and what the page calls it."""

    name: str
    folder: pathlib.Path
    run: run_folder.Run

    @property
    def final(self) -> dict[str, Any]:
        """The last result that it has; empty before there is one."""
        if self.run.rounds:
            return self.run.rounds[-1]
        return self.run.summary.get("end") or self.run.summary.get("start") or {}

    @property
    def measure(self) -> measures.Measure:
        return measures.find([self.final])

    @property
    def protocol(self) -> str:
        return self.final.get("protocol") or "not measured"


def write_several(
    folders: Sequence[str | pathlib.Path], out: str | pathlib.Path
) -> pathlib.Path:
    """Writes one HTML file that puts runs side by side; its path.

    Raises:
      UserError: a folder that is none of a single run's, or is given twice.
    """
    out, runs = pathlib.Path(out), _read(folders)
    with tempfile.TemporaryDirectory() as beside:
        made = _page(runs, pathlib.Path(beside))
        kicker = f"{len(runs)} runs side by side"
        text = web.html(made, pathlib.Path(beside), kicker=kicker)
    with files.told(out):
        files.write_text(out, text)
    return out


def _read(folders: Sequence[str | pathlib.Path]) -> list[Named]:
    paths = [str(folder) for folder in folders]
    for path in paths:
        whole = pathlib.Path(path).resolve()
        if sum(pathlib.Path(other).resolve() == whole for other in paths) > 1:
            raise errors.UserError(f"{path}: given twice; name other runs beside it")
        if comparison.is_one(path) or curve.is_one(whole):
            raise errors.UserError(
                f"{path}: holds several runs and has a page of its own (gptjax report "
                f"{path}); beside others, name those in {path}/runs"
            )
    names = naming.short(paths)
    return [
        Named(names[path], pathlib.Path(path), run_folder.read(path)) for path in paths
    ]


def _page(runs: list[Named], folder: pathlib.Path) -> page.Page:
    """The page; draws its pictures into `folder`."""
    groups: dict[tuple[str, str], list[Named]] = {}
    for each in runs:
        groups.setdefault((each.measure.key, each.protocol), []).append(each)
    # Numbers go on where the alphabet ends.
    letters = {
        key: string.ascii_uppercase[place] if place < 26 else str(place + 1)
        for place, key in enumerate(groups)
    }
    lead: list[page.Part] = []
    if len(groups) > 1:
        lead += [
            page.Notice(
                "The runs were not all measured alike: only figures of one protocol "
                "compare."
            )
        ]
        lines = [f"{letter}: {key[1]}" for key, letter in letters.items()]
        lead += [page.Bullets(lines)]
    else:
        lead += [f"All measured by: {runs[0].protocol}."]
    for each in runs:
        if not each.run.is_finished:
            lead += [page.Notice(f"{each.name}: {statements.unfinished(each.run)}")]
    rows = [
        _row(each, letters[each.measure.key, each.protocol] if len(groups) > 1 else "")
        for each in runs
    ]
    titles = list(dict.fromkeys(title for row in rows for title in row))
    table = page.Table(titles, [[row.get(t, "-") for t in titles] for row in rows])
    sections = [page.Section("Final figures", [table])]
    for key, group in groups.items():
        sections += _curves(group, letters[key] if len(groups) > 1 else "", folder)
    sections += _config_sections(runs) + _sample_sections(runs)
    sections += _origins(runs)
    return page.Page(" · ".join(each.name for each in runs), lead, sections)


def _row(each: Named, letter: str) -> dict[str, str]:
    """What the table says of a run, by the titles of its columns."""
    run, measure, final = each.run, each.measure, each.final
    lacks = f", {run.lacks}" if run.lacks else ""
    row = {"run": each.name + lacks, "model": run.summary.get("model", "-")}
    if letter:
        row["protocol"] = letter
    start = run.summary.get("start")
    row[f"{measure.key} at the start"] = measure.text(measure.of(start))
    if run.rounds:
        row["pruned by"] = run.criterion
        row[f"{measure.key}, dense"] = measure.text(measure.of(run.rounds[0]))
        row["sparsity"] = f"{final['sparsity']:.1%}"
        row["of all"] = f"{final['model_sparsity']:.1%}"
        row["bytes packed"] = tables.bytes_text(final["bytes_packed"])
    elif not run.is_finished:
        return row
    row[f"{measure.key} at the end"] = measure.text(measure.of(final))
    for what, name in (("step", "step"), ("decode", "decoding")):
        found = savings.speed(run.savings, what)
        if found is not None:
            row[f"{name}, of dense"] = f"{found[0]:.2f}"
    return row


def _curves(
    group: list[Named], letter: str, folder: pathlib.Path
) -> list[page.Section]:
    """The pictures of runs that were measured alike."""
    measure, named = group[0].measure, [(each.name, each.run) for each in group]
    under = f", protocol {letter}" if letter else ""
    sections = []
    stem = f"sparsity{letter}"
    draw = side_by_side_pictures
    if draw.sparsity(named, folder / stem, measure=measure):
        told = f"{measure.key} against sparsity"
        parts = [page.Image(f"{told} of each run{under}", stem)]
        sections += [page.Section(f"{told.capitalize()}{under}", parts)]
    stem = f"curves{letter}"
    if draw.curves(named, folder / stem, measure=measure):
        told = (
            "Rounds follow each other, with a gap between two."
            if any(run.rounds for _, run in named)
            else ""
        )
        image = page.Image(f"loss, {measure.key} and learning rate{under}", stem)
        sections += [page.Section(f"Training{under}", [told, image])]
    return sections


def _config_sections(runs: list[Named]) -> list[page.Section]:
    """The keys that the runs' configs have different values of."""
    values = {}
    for each in runs:
        path = each.folder / "config.yaml"
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        values[each.name] = config.leaves(text)
    keys = dict.fromkeys(key for own in values.values() for key in own if key != _OWN)
    rows = []
    for key in keys:
        texts = [_text(own[key]) if key in own else "-" for own in values.values()]
        # A section that a run has not got has no values of its own to be told.
        if len({*texts}) > 1 and {*texts} != {"-", _NONE}:
            rows.append([key, *texts])
    parts = (
        [page.Table(["key", *values], rows, is_text=True)]
        if rows
        else ["Their configs are equal but for the folder."]
    )
    return [page.Section("What their configs differ in", parts)]


def _text(value: Any) -> str:
    return _NONE if value is None else str(value)


def _sample_sections(runs: list[Named]) -> list[page.Section]:
    """What the runs' last models wrote after prompts that all were given."""
    last = {}
    for each in runs:
        for prompt, texts in each.run.samples:
            named = samples.before_and_after(each.run, texts)
            if named:
                last.setdefault(prompt, []).append((each.name, named[-1][1]))
    blocks = [
        page.Samples(prompt, texts)
        for prompt, texts in last.items()
        if len(texts) == len(runs)
    ]
    return [page.Section("Samples", blocks)] if blocks else []


def _origins(runs: list[Named]) -> list[page.Section]:
    """What each run was last started on."""
    rows, titles = [], ["run"]
    for each in runs:
        path = each.folder / "environment.json"
        if path.exists():
            told = origin.described(run_folder.read_object(path)[-1])
            titles = ["run", *told]
            rows.append([each.name, *told.values()])
    table = page.Table(titles, rows, is_text=True)
    return [page.Section("Where they come from", [table])] if rows else []
