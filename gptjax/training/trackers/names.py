"""What a run is called where many lie beside each other."""

import pathlib
import uuid

from gptjax import config


def of(settings: config.Run) -> str:
    """The config's `logging.name`, or the run folder's own."""
    return settings.logging.name or pathlib.Path(settings.out).resolve().name


def new_id() -> str:
    """An id that no other run has."""
    return uuid.uuid4().hex[:8]
