"""What ships with the package: a small GPT-2 and the texts it meets."""

import pathlib

from gptjax import errors

_FOLDER = pathlib.Path(__file__).parent


def checkpoint() -> pathlib.Path:
    """The Hugging Face folder of the packaged GPT-2, written by PyTorch."""
    return _FOLDER / "gpt2-austen"


def demo_config() -> pathlib.Path:
    """The YAML file that `gptjax demo` runs."""
    return _FOLDER / "demo.yaml"


def text(name: str) -> pathlib.Path:
    """The packaged text file called `name`, e.g. `shakespeare.train`.

    Raises:
      UserError: if there is none, naming those there are.
    """
    path = _FOLDER / "texts" / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt")))
        raise errors.UserError(f"{name!r} is no packaged text; known: {known}")
    return path
