"""Instructions and chats: answers to prompts, measured by the answers' perplexity."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gptjax import config, data, evaluation, model
from gptjax.training import objectives


class Instructions:
    """The next token of an answer."""

    objective = objectives.ANSWERS
    is_measured = True

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        mesh: Mesh,
        *,
        train: data.Instructions,
        valid: data.Instructions,
    ):
        self.train, self.valid = train, valid
        self._settings, self._config, self._mesh = settings, model_config, mesh

    @property
    def tokens(self) -> data.Tokens:
        """All training examples, joined."""
        return self.train.joined

    def batches(
        self, *, seed: int, process_index: int, process_count: int
    ) -> data.InstructionBatches:
        """The endless batches of a seed, a process's share of each."""
        return data.InstructionBatches(
            self.train,
            sequence_tokens=self._settings.data.sequence_tokens,
            batch_sequences=self._settings.training.batch_sequences,
            accumulation_steps=self._settings.training.accumulation_steps,
            seed=seed,
            process_index=process_index,
            process_count=process_count,
        )

    def batch_shapes(self) -> objectives.Batch:
        """The shapes of a batch."""
        training = self._settings.training
        parts = training.accumulation_steps
        sequences = training.batch_sequences // parts
        shape = (parts, sequences, self._settings.data.sequence_tokens)
        return dict.fromkeys(
            ("tokens", "labels", "segments"), jax.ShapeDtypeStruct(shape, jnp.int32)
        )

    def evaluate(self, params: Any) -> evaluation.Completions:
        """The perplexity of the validation examples' answers."""
        return evaluation.complete(
            self._config,
            params,
            self.valid,
            sequence_tokens=self._settings.data.sequence_tokens,
            batch_sequences=self._settings.evaluation.batch_sequences,
            dtype=jnp.dtype(self._settings.training.compute_dtype),
            mesh=self._mesh,
        )
