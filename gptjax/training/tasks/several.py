"""Several tasks on one trunk: a main one, and auxiliary ones beside it."""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from gptjax import config, data, errors, evaluation, model
from gptjax.training import objectives
from gptjax.training.tasks.classification import Classification
from gptjax.training.tasks.instructions import Instructions
from gptjax.training.tasks.language import Language
from gptjax.training.tasks.texts import Texts

_KINDS = {
    "language": Language,
    "classification": Classification,
    "tagging": Classification,
    "instructions": Instructions,
}


class Several:
    """Batches of one task at a time; evaluations of all.

    What is not of batches is the main task's.
    """

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        mesh: Mesh,
        *,
        texts: Texts,
    ):
        self._mixing = settings.mixing
        by_name = {config.MAIN: texts, **texts.auxiliary}
        self._tasks = {
            name: _one(alone, model_config, mesh, by_name[name], where=f"{name}: ")
            for name, alone in settings.tasks().items()
        }
        self.main = self._tasks[config.MAIN]
        weights = {name: each.loss_weight for name, each in settings.auxiliary.items()}
        self.objective = objectives.Several(
            tuple(
                (name, task.objective, weights.get(name, 1.0))
                for name, task in self._tasks.items()
            )
        )

    @property
    def tokens(self) -> data.Tokens:
        """The main task's training texts, joined."""
        return self.main.tokens

    @property
    def is_measured(self) -> bool:
        """Whether there is a text to evaluate the main task on."""
        return self.main.is_measured

    def batches(
        self, *, seed: int, process_index: int, process_count: int
    ) -> data.Mixture:
        """The endless batches of a seed, a process's share of each."""
        streams = {
            name: task.batches(
                seed=int(np.random.SeedSequence([seed, place]).generate_state(1)[0]),
                process_index=process_index,
                process_count=process_count,
            )
            for place, (name, task) in enumerate(self._tasks.items())
        }
        chances = self._mixing.weights or dict.fromkeys(streams, 1.0)
        if self._mixing.temperature is not None:
            chances = {
                name: stream.epoch_sequences ** (1 / self._mixing.temperature)
                for name, stream in streams.items()
            }
        return data.Mixture(streams, chances, seed=seed)

    def batch_shapes(self) -> objectives.Batch:
        """The shapes of a batch of the main task."""
        return {config.MAIN: self.main.batch_shapes()}

    def evaluate(self, params: Any) -> evaluation.Several:
        """How well the model does each task that has texts to evaluate on."""
        results = {
            name: task.evaluate(params)
            for name, task in self._tasks.items()
            if task.is_measured
        }
        return evaluation.Several(results.pop(config.MAIN), results)


def make(
    settings: config.Run, model_config: model.Config, mesh: Mesh, texts: Texts
) -> Language | Classification | Instructions | Several:
    """The task of a run, or its several tasks.

    Raises:
      UserError: sequences that the model or the mesh does not take.
    """
    if settings.auxiliary:
        return Several(settings, model_config, mesh, texts=texts)
    return _one(settings, model_config, mesh, texts, where="")


def _one(
    settings: config.Run,
    model_config: model.Config,
    mesh: Mesh,
    texts: Texts,
    *,
    where: str,
) -> Language | Classification | Instructions:
    tokens = settings.data.sequence_tokens
    if tokens > model_config.n_positions:
        raise errors.UserError(
            f"{where}data.sequence_tokens: {tokens} is more than the model's "
            f"n_positions {model_config.n_positions}"
        )
    if tokens % mesh.shape["context"]:
        raise errors.UserError(
            f"{where}data.sequence_tokens: {tokens} do not divide over mesh.context "
            f"{mesh.shape['context']}"
        )
    return _KINDS[settings.task.kind](
        settings, model_config, mesh, train=texts.train, valid=texts.valid
    )
