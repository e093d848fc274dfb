"""The masks of another run: a ticket to be used on other data or other weights."""

import pathlib
from typing import Any

from gptjax import errors, masks

_FILE = "masks.safetensors"


def locate(name: str | pathlib.Path) -> pathlib.Path:
    """The masks file that `pruning.masks_from` names.

    Args:
      name: a run folder (the last finished round's), the folder of one of its rounds,
        or a masks file.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    if (path / _FILE).is_file():
        return path / _FILE
    finished = [
        round_ / _FILE
        for round_ in sorted((path / "rounds").glob("[0-9][0-9]*"))
        if (round_ / _FILE).is_file() and (round_ / "report.json").is_file()
    ]
    if not finished:
        raise errors.UserError(
            f"pruning.masks_from: {path} is no masks file, and holds neither {_FILE} "
            "nor a finished round that has one"
        )
    return finished[-1]


def load(
    name: str | pathlib.Path, params: Any, mask_shapes: masks.Masks
) -> masks.Masks:
    """The masks that `name` stands for, placed as the leaves of `params` are.

    Args:
      name: as for `locate`.
      params: arrays, or shapes with shardings.
      mask_shapes: of the masks that the run expects.

    Raises:
      UserError: no such file, or masks of another model.
    """
    path = locate(name)
    found = masks.load(path, params)
    if masks.layer_sizes(found).keys() != masks.layer_sizes(mask_shapes).keys():
        raise errors.UserError(
            f"{path}: masks of {', '.join(masks.layer_sizes(found)) or 'nothing'}, "
            "where pruning.prunable says "
            + (", ".join(masks.layer_sizes(mask_shapes)) or "nothing")
        )
    return found
