"""How the tasks beside a run's main one fare: a table."""

from typing import Any

from gptjax.reporting import measures, page, run_folder


def sections(run: run_folder.Run) -> list[page.Section]:
    """The table, with the protocols; nothing where there is one task."""
    titles, rows = cells(run)
    if not rows:
        return []
    _, last = _times(run)[-1]
    protocols = [f"{name}: {each['protocol']}." for name, each in last.items()]
    parts = [page.Table(titles, rows), page.Bullets(protocols)]
    return [page.Section("Other tasks", parts)]


def cells(run: run_folder.Run) -> tuple[list[str], list[list[str]]]:
    """Column titles and, for each task but the main one, the texts under them."""
    times = _times(run)
    if not times:
        return [], []
    rows = []
    for name in times[-1][1]:
        results = [found.get(name) for _, found in times]
        measure = measures.find(results)
        figures = [measure.text(measure.of(result)) for result in results]
        rows.append([name, measure.key, *figures])
    return ["task", "measure", *(when for when, _ in times)], rows


def _times(run: run_folder.Run) -> list[tuple[str, dict[str, Any]]]:
    """When the tasks were measured, and with what results."""
    results = [("at the start", run.summary.get("start"))]
    results += [(f"{each['sparsity']:.1%} sparse", each) for each in run.rounds]
    if not run.rounds:
        results.append(("at the end", run.summary.get("end")))
    return [(when, r["auxiliary"]) for when, r in results if r and r.get("auxiliary")]
