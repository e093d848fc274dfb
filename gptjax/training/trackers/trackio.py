"""Trackio, which keeps runs on this machine: https://huggingface.co/docs/trackio."""

from gptjax import config
from gptjax.training.trackers import names


class Trackio:
    """A run there. Its own environment variables hold: TRACKIO_DIR, TRACKIO_SPACE_ID.

    Runs go by their names, which are therefore made unlike any other's.
    """

    def __init__(self, settings: config.Run, known: str | None):
        """Begins a run, or goes on with the one of a known name."""
        import trackio

        self.id = known or f"{names.of(settings)}-{names.new_id()}"
        self._run = trackio.init(
            project=settings.logging.project,
            name=self.id,
            resume="allow",
            config=settings.model_dump(mode="json"),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        named = {f"{phase}/{name}": value for name, value in values.items()}
        self._run.log(named, step=step)

    def close(self) -> None:
        self._run.finish()
