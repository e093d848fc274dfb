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


def chat_template() -> pathlib.Path:
    """The Jinja template of chats for tokenizers that have none."""
    return _FOLDER / "chat_template.jinja"


def exported_folder() -> list[pathlib.Path]:
    """What lies in a folder of exported programs whatever the model: how to run it."""
    return sorted((_FOLDER / "stablehlo").glob("*.*"))


def shapes() -> dict[str, pathlib.Path]:
    """The config.json of well-known models, by their names, to plan for without them.

    GPT-2's: Hugging Face. GPT-3's: Brown et al., "Language Models are Few-Shot
    Learners", 2020, arXiv:2005.14165, table 2.1; of 13B with the width that its 40
    heads of 128 make (5120, where the table says 5140), of XL with the 16 heads of 128
    that make its width (the table says 24). Dense layers take turns with banded ones,
    whose band, which the paper does not tell, is GPT-Neo's of 256 tokens: so they are
    GPT-Neos, which stock transformers loads.
    """
    return {path.stem: path for path in (_FOLDER / "shapes").glob("*.json")}


def text(name: str) -> pathlib.Path:
    """The packaged file of texts called `name`, e.g. `shakespeare.train`.

    Raises:
      UserError: if there is none, naming those there are.
    """
    paths = sorted((_FOLDER / "texts").glob("*.*"))
    found = [path for path in paths if path.stem == name]
    if not found:
        known = ", ".join(path.stem for path in paths)
        raise errors.UserError(f"{name!r} is no packaged text; known: {known}")
    return found[0]
