"""Language modelling: packed sequences of texts, measured by perplexity."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import config, data, evaluation, model
from gptjax.training import objectives


class Language:
    """The next token of a text."""

    objective = objectives.LANGUAGE

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        mesh: Mesh,
        *,
        train: data.Tokens,
        valid: data.Tokens | None,
    ):
        self.train, self.valid = train, valid
        self._settings, self._config, self._mesh = settings, model_config, mesh

    @property
    def tokens(self) -> data.Tokens:
        """The training text."""
        return self.train

    @property
    def is_measured(self) -> bool:
        """Whether there is a text to evaluate on."""
        return self.valid is not None

    def batches(
        self,
        *,
        seed: int,
        process_index: int,
        process_count: int,
        beside: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
    ) -> data.Batches:
        """The endless batches of a seed, a process's share of each.

        Args:
          beside: as for `data.Batches`.
        """
        return data.Batches(
            self.train,
            sequence_tokens=self._settings.data.sequence_tokens,
            batch_sequences=self._settings.training.batch_sequences,
            accumulation_steps=self._settings.training.accumulation_steps,
            seed=seed,
            respect_documents=self._settings.data.respect_documents,
            beside=beside,
            process_index=process_index,
            process_count=process_count,
        )

    def batch_shapes(self) -> objectives.Batch:
        """The shapes of a batch."""
        training = self._settings.training
        parts = training.accumulation_steps
        sequences = training.batch_sequences // parts
        names = ["tokens", "labels"]
        if self._settings.data.respect_documents:
            names.append("segments")
        shape = (parts, sequences, self._settings.data.sequence_tokens)
        return dict.fromkeys(names, jax.ShapeDtypeStruct(shape, jnp.int32))

    def evaluate(self, params: Any) -> evaluation.Perplexity:
        """The perplexity of the validation text, by the protocol of the config."""
        return evaluation.perplexity(
            self._config, params, self._valid_ids(), **self._protocol()
        )

    def connect(
        self, first: Any, second: Any, *, points: int
    ) -> evaluation.Connectivity:
        """The losses of the validation text between two models, by that protocol."""
        return evaluation.connect(
            self._config,
            first,
            second,
            self._valid_ids(),
            points=points,
            **self._protocol(),
        )

    def _valid_ids(self) -> np.ndarray:
        assert self.valid is not None
        return self.valid.ids[: self._settings.evaluation.limit_tokens]

    def _protocol(self) -> dict[str, Any]:
        protocol, valid = self._settings.evaluation, self._settings.data.valid
        assert valid is not None
        context = evaluation.context_of(
            self._config.n_positions, protocol.context_tokens
        )
        return {
            "context": context,
            "stride": protocol.stride_tokens or context,
            "batch_sequences": protocol.batch_sequences,
            "dtype": jnp.dtype(self._settings.training.compute_dtype),
            "mesh": self._mesh,
            "text": valid.name,
        }
