"""A run folder's `report/`: its page, as HTML and Markdown, its table, its pictures."""

import pathlib

from gptjax.reporting import (
    auxiliary,
    classification,
    comparison,
    curve,
    heat,
    measures,
    origin,
    page,
    pictures,
    run_folder,
    samples,
    savings,
    statements,
    tables,
    web,
)


def write(folder: str | pathlib.Path) -> pathlib.Path:
    """Writes `report/` into a run folder from what stands there; `report/report.md`.

    Works on a run that is still under way or was interrupted, too. What stood in
    `report/` before is replaced as a whole.

    The folder of a comparison, or of a learning curve, gets the page of one, see
    `write_comparison` and `write_curve`.

    Raises:
      UserError: if `folder` is no run folder.
    """
    folder = pathlib.Path(folder)
    if curve.is_one(folder):
        return curve.write_curve(folder)
    if comparison.is_one(folder):
        return comparison.write_comparison(folder)
    run = run_folder.read(folder)
    with page.replacing(folder / "report") as beside:
        web.write(beside, "report", _page(run, folder, beside), kicker=_kicker(run))
        if run.rounds:
            text = tables.to_csv(run.rounds)
            (beside / "rounds.csv").write_text(text, encoding="utf-8")
    return folder / "report" / "report.md"


def _kicker(run: run_folder.Run) -> str:
    kind = f"Pruning run, {run.criterion}" if run.rounds else "Training run"
    return f"{kind}, {run.lacks}" if run.lacks else kind


def _page(
    run: run_folder.Run, run_path: pathlib.Path, folder: pathlib.Path
) -> page.Page:
    """The page of the run in `run_path`; draws its pictures into `folder`."""
    lead = [statements.headline(run), statements.adapter(run), statements.figures(run)]
    if not run.is_finished:
        lead += [page.Notice(statements.unfinished(run))]
    sections = _rounds(run, folder)
    said = savings.sentences(run.savings)
    if said:
        table = page.Table(*savings.cells(run.savings))
        sections += [page.Section("What it saves", [table, page.Bullets(said)])]
    if run.metrics:
        pictures.training_curves(run.metrics, run.rounds, folder / "training_curves")
        curves = page.Image("training curves", "training_curves")
        sections += [page.Section("Training", [curves])]
    sections += classification.sections(run.summary.get("end"), folder)
    sections += [*auxiliary.sections(run), *samples.sections(run)]
    sections += origin.sections(run_path)
    return page.Page(run.summary.get("model", "A run"), lead, sections)


def _rounds(run: run_folder.Run, folder: pathlib.Path) -> list[page.Section]:
    """The rounds' table, their measure against sparsity, and where the zeros are."""
    if not run.rounds:
        return []
    parts: list[page.Part] = [page.Table(*tables.cells(run.rounds))]
    sections, last = [], run.rounds[-1]
    if len(run.rounds) > 1 and last["sparsity"] > 0:
        key = measures.find(run.rounds).key
        stem = folder / f"sparsity_{key}"
        pictures.sparsity(run.rounds, stem, criterion=run.criterion)
        parts += [page.Image(f"{key} against sparsity", stem.name)]
        parts += [page.Bullets(statements.controls(run))]
        if last.get("sparsity_per_layer"):
            pictures.layer_sparsity(last, folder / "layer_sparsity")
            image = page.Image("sparsity of each layer", "layer_sparsity")
            zeros = [heat.heat_map(run.rounds, image)]
            sections += [page.Section("Where the zeros are", zeros)]
    return [page.Section("Rounds", parts), *sections]
