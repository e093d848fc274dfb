"""MODEL, as a user names it -> the folder that holds it."""

import pathlib
import re

from gptjax import assets, errors
from gptjax.convert import adapters, checkpoint_files, folders, hf_config

PACKAGED = "packaged"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve(name: str | pathlib.Path) -> pathlib.Path:
    """The model folder that `name` means.

    Args:
      name: a Hugging Face or gptjax folder, a run folder (its `native/` or `export/`
        is meant), a folder of one of its rounds, `packaged` for the checkpoint that
        comes with gptjax, or a name on the Hugging Face hub, which is downloaded once.

    Raises:
      UserError: nothing of that name; what was looked for is told.
    """
    folder = pathlib.Path(name).expanduser()
    if str(name) == PACKAGED:
        return assets.checkpoint()
    if folder.is_dir():
        return _in_folder(folder)
    if folder.suffix == ".gguf" and folder.exists():
        raise errors.UserError(
            f"{name}: a GGUF file; `gptjax convert {name} DST` makes a folder of it"
        )
    if folder.exists():
        raise errors.UserError(
            f"{name}: is a file; a model is a folder with {hf_config.FILE} in it"
        )
    if not _HUB_NAME.fullmatch(str(name)):
        raise errors.UserError(f"{name}: there is no such folder")
    try:
        return _download(str(name))
    except errors.UserError as error:
        if name not in assets.shapes():
            raise
        raise errors.UserError(
            f"{error}; `gptjax init {name} DST` makes one of its shape, untrained"
        ) from error


def stock_name(name: str | pathlib.Path) -> str:
    """The folder or hub name by which transformers loads what `name` means."""
    is_here = str(name) == PACKAGED or pathlib.Path(name).expanduser().is_dir()
    return str(resolve(name)) if is_here else str(name)


def resolve_adapter(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of the adapter that `name` means: itself or, of a run, its adapter/.

    Raises:
      UserError: there is none.
    """
    folder = pathlib.Path(name).expanduser()
    for place in (folder, folder / "adapter"):
        if (place / adapters.CONFIG).is_file():
            return place
    raise errors.UserError(
        f"{name}: no adapter; looked for {adapters.CONFIG} and for a run's adapter/"
    )


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    """The model of an existing folder: itself or, of a run folder, its export; of a
    round's, its model.

    A run whose model no Hugging Face folder holds as it is holds that, too, or alone.
    """
    if (folder / hf_config.FILE).is_file():
        return folder
    for made in (folder / "native", folder / "export", folder / "model"):
        if (made / hf_config.FILE).is_file():
            return made
    if (folder / "runs").is_dir():
        raise errors.UserError(
            f"{folder}: holds several runs, each with its model; name one of "
            f"{folder / 'runs'}"
        )
    if (folder / adapters.CONFIG).is_file():
        raise errors.UserError(
            f"{folder}: an adapter, no model; `gptjax merge MODEL {folder}` makes one"
        )
    if (folder / "config.yaml").is_file():
        raise errors.UserError(
            f"{folder}: this run has no export/ yet; start it again to finish it"
        )
    raise errors.UserError(
        f"{folder}: no model; looked for {hf_config.FILE}, and for the export/ of a "
        "run and the model/ of a round"
    )


def _download(name: str) -> pathlib.Path:
    """The local copy of a model on the hub, only those files that gptjax reads."""
    import huggingface_hub
    import huggingface_hub.errors

    sidecars = [hf_config.FILE, folders.GENERATION, *folders.TOKENIZER]
    safetensors = ["model.safetensors", "model-*.safetensors*"]
    safetensors.append("model.safetensors.index.json")
    pickles = [
        "pytorch_model.bin",
        "pytorch_model-*.bin",
        "pytorch_model.bin.index.json",
    ]
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=sidecars + safetensors
        )
        weights = [file for file, _ in checkpoint_files.WEIGHTS]
        if not any((pathlib.Path(folder) / file).is_file() for file in weights):
            # The older format, and not both: they hold the same weights.
            folder = huggingface_hub.snapshot_download(
                name, allow_patterns=sidecars + pickles
            )
    except (
        huggingface_hub.errors.HFValidationError,
        huggingface_hub.errors.RepositoryNotFoundError,
    ) as error:
        raise errors.UserError(
            f"{name}: neither a folder here nor a model on the Hugging Face hub that "
            "you may read"
        ) from error
    except (
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.LocalEntryNotFoundError,
        huggingface_hub.errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise errors.UserError(
            f"{name}: no such folder here, and the Hugging Face hub cannot be reached "
            "or has no such model in its local cache"
        ) from error
    return pathlib.Path(folder)
