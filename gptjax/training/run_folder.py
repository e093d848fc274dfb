"""A run's folder: held by one process, and by one config."""

import contextlib
import fcntl
import pathlib
from collections.abc import Collection, Iterator

import jax

from gptjax import config, errors, files
from gptjax.training import environment

# What may differ when a run is continued: it changes where and how fast, not what.
_FREE_TO_CHANGE = (
    "out",
    "mesh",
    "data.cache_dir",
    "data.workers",
    "distillation.cache_dir",
    "logging",
    "training.log_every_steps",
    "training.keep_checkpoints",
    "training.profile",
    "tune",
    "search",
)


@contextlib.contextmanager
def run_folder(settings: config.Run) -> Iterator[pathlib.Path]:
    """The run's folder, held against other processes for as long as it is entered.

    Raises:
      UserError: another process is at work in it, or it holds a search, or a run with
        another config.
    """
    folder = pathlib.Path(settings.out)
    if (folder / config.STUDY_LOCK).exists():
        raise errors.UserError(
            f"out: {folder} holds a search of `gptjax tune`; choose another folder"
        )
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
        check_same_run(config_path, settings)
        environment.record(folder)
        try:
            yield folder
        except Exception:
            # A run that never began must not hold its folder against a mended config.
            if is_new and not _has_begun(folder):
                config_path.unlink(missing_ok=True)
                (folder / environment.NAME).unlink(missing_ok=True)
            raise


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether a run folder holds more than what it is opened with."""
    own = ("config.yaml", ".lock", environment.NAME)
    return any(path.name not in own for path in folder.iterdir())


def check_same_run(
    path: pathlib.Path, settings: config.Run, *, held: Collection[str] = ()
) -> None:
    """Writes the resolved config, or compares with the one that is there.

    Args:
      held: keys and sections that must not have changed either, though a run may go
        on with them changed.

    Raises:
      UserError: naming a key that has changed, where that may not be.
    """

    def is_within(key, sections):
        return any(key == own or key.startswith(own + ".") for own in sections)

    if path.exists():
        old, new = (
            config.leaves(text)
            for text in (path.read_text(encoding="utf-8"), config.dump(settings))
        )
        for key in sorted({*old, *new}):
            if is_within(key, _FREE_TO_CHANGE) and not is_within(key, held):
                continue
            before, now = old.get(key), new.get(key)
            if before != now:
                raise errors.UserError(
                    f"{path}: this folder holds a run with {key} {before}, not {now}; "
                    "set it back to go on with that run, or choose another `out`"
                )
    files.write_text(path, config.dump(settings))
