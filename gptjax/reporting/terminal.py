"""What a finished run says on the terminal."""

import pathlib

import rich.console

from gptjax.reporting import run_folder, savings, tables


def print_run(folder: pathlib.Path) -> None:
    """Prints a run's table, savings and samples, and where its files are."""
    run = run_folder.read(folder)
    console = rich.console.Console(highlight=False, soft_wrap=True)
    summary = run.summary
    start, end = summary.get("start"), summary.get("end")
    if start:
        before = tables.perplexity_text(start["perplexity"])
        console.print(f"\nPerplexity at the start: {before}", markup=False)
    if run.rounds:
        console.print(tables.rich_table(run.rounds))
    elif end:
        after = tables.perplexity_text(end["perplexity"])
        console.print(f"Perplexity at the end: {after}", markup=False)
    protocol = (end or start or {}).get("protocol")
    if protocol:
        console.print(f"Measured by: {protocol}.", markup=False)
    for sentence in savings.sentences(summary.get("savings") or {}):
        console.print(sentence, markup=False)
    samples = summary.get("samples")
    if samples:
        for when in ("before", "after"):
            console.print(f"\n{when.capitalize()}:", style="bold")
            console.print(samples["prompt"] + samples[when], markup=False)
    console.print(
        f"\nReport:  {folder / 'report' / 'report.md'}\n"
        f"Model:   {folder / 'export'} (loads in transformers)",
        markup=False,
    )
