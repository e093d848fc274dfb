"""A finished run on the terminal: its table, what it saved, where everything lies."""

import pathlib

import jax

from gptjax.reporting import (
    auxiliary,
    classification,
    page,
    run_folder,
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
    samples = run.summary.get("samples")
    if samples:
        for when in ("before", "after"):
            console.print(f"\n{when}:", style="bold")
            console.print(f"{samples['prompt']}{samples[when]}")
    places = {
        "export": "loads in transformers",
        "adapter": "in PEFT's layout, for gptjax merge",
        "report": "table and pictures",
    }
    console.print()
    for name, what in places.items():
        if (folder / name).is_dir():
            # Not wrapped: a path is there to be copied.
            console.print(f"{folder / name}  {what}", soft_wrap=True)
