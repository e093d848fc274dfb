"""A plan as files."""

import pathlib

from gptjax import files
from gptjax.planning import pictures, planner


def write(folder: pathlib.Path, plan: planner.Plan) -> None:
    """Writes `plan.json`, and where anything compiled `plan.png` and `plan.svg`."""
    files.make_folder(folder)
    files.write_json(folder / "plan.json", plan.to_json())
    if plan.step is not None or plan.suggestions:
        pictures.memory(plan, folder / "plan")
