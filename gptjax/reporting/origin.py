"""Where a run comes from: its config, what it ran on, the commit."""

import pathlib
from typing import Any

from gptjax.reporting import page, run_folder


def sections(folder: pathlib.Path) -> list[page.Section]:
    """A section of what lies in a run folder; nothing where that is neither."""
    parts: list[page.Part] = []
    environment = folder / "environment.json"
    if environment.exists():
        starts = run_folder.read_object(environment)
        parts += [page.Table(*_cells(starts), is_text=True)]
        parts += [page.Folded("Versions of packages", _packages(starts))]
    config = folder / "config.yaml"
    if config.exists():
        text = config.read_text(encoding="utf-8")
        parts += [page.Folded("Config, every default written out", text)]
    if not parts:
        return []
    return [page.Section("Where it comes from", parts, is_for_web=True)]


def _commit(start: dict[str, Any]) -> str:
    """The commit that gptjax ran from, or else that of the working directory."""
    for name, where in (("gptjax", ""), ("directory", " (of the working directory)")):
        found = start.get("git", {}).get(name)
        if found:
            changed = ", with changes" if found["is_dirty"] else ""
            return f"{found['commit'][:12]}{changed}{where}"
    return "none: no checkout"


def described(start: dict[str, Any]) -> dict[str, str]:
    """What one environment was, by what readers call its parts."""
    return {
        "started": start["started"].replace("T", " ").replace("+00:00", " UTC"),
        "command": " ".join(start["command"]),
        "git commit": _commit(start),
        "gptjax, jax": ", ".join(
            start["packages"].get(name, "-") for name in ("gptjax", "jax")
        ),
        "devices": _devices(start),
        "processor": f"{start['processor']}, {start['cores']} cores",
        "system": f"Python {start['python']}, {start['platform']}",
    }


def _cells(starts: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A column for each environment that the run was started in."""
    told = [described(start) for start in starts]
    titles = [f"start {number}" for number in range(1, len(starts) + 1)]
    return ["", *(titles if len(starts) > 1 else ["this run"])], [
        [name, *(each[name] for each in told)] for name in told[0]
    ]


def _devices(start: dict[str, Any]) -> str:
    text = f"{start['devices']} x {start['device']}"
    processes = start["processes"]
    return text if processes == 1 else f"{text}, {processes} processes"


def _packages(starts: list[dict[str, Any]]) -> str:
    """The newest start's, and where another had other ones, those."""
    *before, last = (start["packages"] for start in starts)
    lines = []
    for name, version in last.items():
        others = {each.get(name, "-") for each in before} - {version}
        lines.append(f"{name} {version}")
        if others:
            lines[-1] += f"  (before: {', '.join(sorted(others))})"
    return "\n".join(lines)
