"""MLflow: https://mlflow.org/docs/latest/ml/tracking."""

import time

from gptjax import config
from gptjax.training.trackers import names

_LONGEST = 6000
"""Characters of a parameter's value, by MLflow's limit."""
_AT_ONCE = 100
"""Parameters in one request, by MLflow's limit."""


class Mlflow:
    """A run there, of the experiment that is called like the project.

    Where it lies says MLFLOW_TRACKING_URI; without it, `mlflow.db` in the working
    directory.
    """

    def __init__(self, settings: config.Run, known: str | None):
        """Begins a run, or goes on with the one of a known id."""
        import mlflow

        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        if known is None:
            self.id = self._begin(settings)
        else:
            self.id = known
            self._client.update_run(known, status="RUNNING")

    def _begin(self, settings: config.Run) -> str:
        project = settings.logging.project
        found = self._client.get_experiment_by_name(project)
        experiment = (
            self._client.create_experiment(project)
            if found is None
            else found.experiment_id
        )
        run = self._client.create_run(experiment, run_name=names.of(settings))
        leaves = config.leaves(config.dump(settings))
        params = [
            self._mlflow.entities.Param(key, str(value)[:_LONGEST])
            for key, value in leaves.items()
        ]
        for first in range(0, len(params), _AT_ONCE):
            some = params[first : first + _AT_ONCE]
            self._client.log_batch(run.info.run_id, params=some)
        return run.info.run_id

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(f"{phase}/{name}", value, now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.id)
