"""A run folder's `report/`: one Markdown page, its table as CSV, its pictures."""

import pathlib
import re

from gptjax.reporting import (
    auxiliary,
    classification,
    comparison,
    curve,
    measures,
    page,
    pictures,
    run_folder,
    savings,
    statements,
    tables,
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
        (beside / "report.md").write_text(_page(run, beside), encoding="utf-8")
        if run.rounds:
            text = tables.to_csv(run.rounds)
            (beside / "rounds.csv").write_text(text, encoding="utf-8")
    return folder / "report" / "report.md"


def _page(run: run_folder.Run, folder: pathlib.Path) -> str:
    """The page in Markdown; draws its pictures into `folder`."""
    parts = [f"# {run.summary.get('model', 'A run')}", statements.headline(run)]
    parts += [statements.adapter(run)]
    if run.rounds:
        parts += ["## Rounds", tables.markdown(run.rounds).rstrip()]
    last = run.rounds[-1] if run.rounds else {}
    if len(run.rounds) > 1 and last["sparsity"] > 0:
        key = measures.find(run.rounds).key
        stem = folder / f"sparsity_{key}"
        pictures.sparsity(run.rounds, stem, criterion=run.criterion)
        parts += [page.image(f"{key} against sparsity", stem.name)]
        parts += [page.bullets(statements.controls(run))]
        if last.get("sparsity_per_layer"):
            pictures.layer_sparsity(last, folder / "layer_sparsity")
            parts += ["## Where the zeros are"]
            parts += [page.image("sparsity of each layer", "layer_sparsity")]
    said = savings.sentences(run.savings)
    if said:
        parts += ["## What it saves", page.bullets(said)]
    if run.metrics:
        pictures.training_curves(run.metrics, run.rounds, folder / "training_curves")
        parts += ["## Training", page.image("training curves", "training_curves")]
    parts += [classification.section(run.summary.get("end"), folder)]
    parts += [auxiliary.section(run), _samples(run)]
    return page.join(parts)


def _samples(run: run_folder.Run) -> str:
    samples = run.summary.get("samples")
    if not samples:
        return ""
    parts = ["## A sample", f"After the prompt {samples['prompt']!r}:"]
    for when in ("before", "after"):
        text = samples[when].strip("\n")
        # A fence longer than any in the text, which a model may well write.
        longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        parts += [f"{when.capitalize()}:", f"{fence}text\n{text}\n{fence}"]
    return "\n\n".join(parts)
