"""Weights & Biases: https://docs.wandb.ai."""

from gptjax import config
from gptjax.training.trackers import names


class Wandb:
    """A run there. Its own environment variables hold: WANDB_MODE, WANDB_ENTITY ..."""

    def __init__(self, settings: config.Run, known: str | None):
        """Begins a run, or goes on with the one of a known id."""
        import wandb

        self.id = known or names.new_id()
        self._run = wandb.init(
            project=settings.logging.project,
            name=names.of(settings),
            id=self.id,
            resume="allow",
            dir=settings.out,
            config=settings.model_dump(mode="json"),
            # A run that goes on may have another mesh or another number of workers.
            allow_val_change=True,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True),
        )
        self._phases: set[str] = set()
        if self._run.url:
            print(f"wandb: {self._run.url}", flush=True)

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        # Every phase counts its own steps; W&B's must rise throughout a run.
        if phase not in self._phases:
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
            self._phases.add(phase)
        named = {f"{phase}/{name}": value for name, value in values.items()}
        self._run.log({**named, f"{phase}/step": step})

    def close(self) -> None:
        self._run.finish()
