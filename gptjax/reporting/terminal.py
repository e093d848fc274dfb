"""A finished run on the terminal: its table, what it saved, where everything lies."""

import pathlib

import jax

from gptjax.reporting import (
    auxiliary,
    classification,
    page,
    run_folder,
    samples,
    savings,
    statements,
    tables,
)


def print_run(folder: str | pathlib.Path) -> None:
    """Prints what the run in `folder` came to, and where to look further.

    Of several processes only the first prints.

    Raises:
      UserError: if `folder` is no run folder.
    """
    import rich.console

    if jax.process_index() > 0:
        return
    folder = pathlib.Path(folder)
    run = run_folder.read(folder)
    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print()
    if run.rounds:
        console.print(tables.rich_table(run.rounds))
    for line in [
        statements.headline(run),
        *filter(None, [statements.adapter(run)]),
        *statements.controls(run),
        *savings.sentences(run.savings),
    ]:
        console.print(line)
    end = run.summary.get("end") or {}
    if "confusion" in end:
        console.print(page.rich_table(*classification.cells(end)))
    titles, rows = auxiliary.cells(run)
    if rows:
        console.print(page.rich_table(titles, rows))
    for prompt, texts in run.samples:
        for when, text in samples.before_and_after(run, texts):
            console.print(f"\n{when}:", style="bold")
            console.print(f"{prompt}{text}")
    places = {
        "export": "loads in transformers",
        "native": "the model as it is, for gptjax",
        "adapter": "in PEFT's layout, for gptjax merge",
        "report": "report.html, and its tables and pictures",
    }
    console.print()
    for name, what in places.items():
        if (folder / name).is_dir():
            # Not wrapped: a path is there to be copied.
            console.print(f"{folder / name}  {what}", soft_wrap=True)
