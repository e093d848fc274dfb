"""The model of a plan: its shape alone, for which no weights are needed."""

import pathlib

from gptjax import assets, convert, errors, model
from gptjax.convert import hf_config


def resolve(name: str) -> model.Config:
    """The architecture that `name` means.

    Args:
      name: any MODEL; or a folder or a file with no more than a config.json; or one of
        the shapes that ship with gptjax, which goes before a name on the hub.

    Raises:
      UserError: nothing of that name.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return _read(path)
    shipped = assets.shapes()
    if name in shipped and not path.exists():
        return _read(shipped[name])
    try:
        return convert.read_config(convert.resolve(name))
    except errors.UserError as error:
        if path.exists():
            raise
        raise errors.UserError(
            f"{error}; shapes that need no weights: {', '.join(sorted(shipped))}"
        ) from error


def _read(path: pathlib.Path) -> model.Config:
    return hf_config.parse(hf_config.read_json(path), where=str(path))
