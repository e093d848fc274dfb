"""What tells one model from another: its architecture and its weights' bytes."""

import hashlib
import pathlib

from gptjax import errors
from gptjax.convert import checkpoint_files, hf_config, native


def digest(folder: pathlib.Path) -> str:
    """The same for the same files of weights under the same architecture, wherever.

    Args:
      folder: a Hugging Face or gptjax folder, as from `resolve`.

    Raises:
      UserError: no model, or one that cannot be read.
    """
    config = hf_config.read_config(folder).without_dropout()
    found = hashlib.sha256(repr(config).encode())
    try:
        for file in weight_files(folder):
            found.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise errors.UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return found.hexdigest()


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of weights that `load` reads: of a gptjax folder by their names, of
    others the one that it begins with first.

    Raises:
      UserError: no weights, or a broken index.
    """
    if native.is_native(folder):
        inside = (folder / hf_config.PARAMS).rglob("*")
        return sorted(path for path in inside if path.is_file())
    return checkpoint_files.weight_files(folder)
