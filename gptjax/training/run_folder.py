"""A run's folder: held by one process, and by one config."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import omegaconf

from gptjax import config, errors, files

# What may differ when a run is continued: it changes where and how fast, not what.
_FREE_TO_CHANGE = (
    "out",
    "mesh",
    "data.cache_dir",
    "data.workers",
    "distillation.cache_dir",
    "training.log_every_steps",
    "training.keep_checkpoints",
    "training.profile",
)


@contextlib.contextmanager
def run_folder(settings: config.Run) -> Iterator[pathlib.Path]:
    """The run's folder, held against other processes for as long as it is entered.

    Raises:
      UserError: another process is at work in it, or it holds a run with another
        config.
    """
    folder = pathlib.Path(settings.out)
    if jax.process_index() > 0:
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise errors.UserError(
            f"out: {folder} cannot be written: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.UserError(
                f"{folder}: another process is at work in this run folder"
            ) from error
        config_path = folder / "config.yaml"
        is_new = not config_path.exists()
        _check_same_run(config_path, settings)
        try:
            yield folder
        except Exception:
            # A run that never began must not hold its folder against a mended config.
            if is_new and not _has_begun(folder):
                config_path.unlink(missing_ok=True)
            raise


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether a run folder holds more than its config and lock."""
    return any(path.name not in ("config.yaml", ".lock") for path in folder.iterdir())


def _check_same_run(path: pathlib.Path, settings: config.Run) -> None:
    """Writes the resolved config, or compares with the one that is there."""
    if path.exists():
        old, new = (
            _leaves(omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(text)))
            for text in (path.read_text(encoding="utf-8"), config.dump(settings))
        )
        for key in sorted({*old, *new}):
            if any(
                key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE
            ):
                continue
            before, now = old.get(key), new.get(key)
            if before != now:
                raise errors.UserError(
                    f"{path}: this folder holds a run with {key} {before}, not {now}; "
                    "set it back to go on with that run, or choose another `out`"
                )
    files.write_text(path, config.dump(settings))


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted keys; what lies in a list is one value."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    found = {}
    for name, value in node.items():
        found |= _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    return found
