"""Classification: texts or their words, each of one label; accuracy and F1."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gptjax import config, data, errors, evaluation, model
from gptjax.training import objectives


class Classification:
    """The label of a text, or of each of its words."""

    is_measured = True

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        mesh: Mesh,
        *,
        train: data.Examples,
        valid: data.Examples,
    ):
        self.train, self.valid = train, valid
        self._settings, self._config, self._mesh = settings, model_config, mesh
        wanted = settings.data.augmentation
        self._change = None
        if wanted is not None:
            self._change = train.changed(data.Augmentation(wanted))
        task = settings.task
        self.objective = objectives.Classification(
            classifier=task.name,
            class_weights=class_weights(task.class_weights, train),
            language_weight=task.language_weight,
            unit=evaluation.unit(train),
        )

    @property
    def tokens(self) -> data.Tokens:
        """All training texts, joined."""
        return self.train.tokens

    def batches(
        self, *, seed: int, process_index: int, process_count: int
    ) -> data.ExampleBatches:
        """The endless batches of a seed, a process's share of each."""
        return data.ExampleBatches(
            self.train,
            sequence_tokens=self._settings.data.sequence_tokens,
            batch_sequences=self._settings.training.batch_sequences,
            accumulation_steps=self._settings.training.accumulation_steps,
            seed=seed,
            pad_id=self._config.classifier(self._settings.task.name).pad_token_id,
            with_labels=bool(self._settings.task.language_weight),
            change=self._change,
            process_index=process_index,
            process_count=process_count,
        )

    def batch_shapes(self) -> objectives.Batch:
        """The shapes of a batch of the longest texts."""
        training = self._settings.training
        parts = training.accumulation_steps
        sequences = (parts, training.batch_sequences // parts)
        tokens = (*sequences, self._settings.data.sequence_tokens)
        has_words = isinstance(self.train, data.Tagged)
        shapes = {"tokens": tokens, "classes": tokens if has_words else sequences}
        if self._settings.task.language_weight:
            shapes["labels"] = tokens
        return {
            name: jax.ShapeDtypeStruct(shape, jnp.int32)
            for name, shape in shapes.items()
        }

    def evaluate(self, params: Any) -> evaluation.Classification:
        """How well the validation texts are labelled."""
        return evaluation.classify(
            self._config,
            params,
            self.valid,
            classifier=self._settings.task.name,
            sequence_tokens=self._settings.data.sequence_tokens,
            batch_sequences=self._settings.evaluation.batch_sequences,
            dtype=jnp.dtype(self._settings.training.compute_dtype),
            mesh=self._mesh,
        )


def class_weights(
    wanted: str | dict[str, float] | None, examples: data.Examples
) -> tuple[float, ...] | None:
    """A weight for each label, as a config says; None where all weigh 1.

    `balanced` is scikit-learn's: texts, or words, over (labels x those of that label).

    Raises:
      UserError: weights of other labels than there are, or a label without texts.
    """
    if wanted is None:
        return None
    if isinstance(wanted, dict):
        if wanted.keys() != set(examples.labels):
            raise errors.UserError(
                f"task.class_weights: given for {', '.join(sorted(wanted))}; the "
                f"labels are {', '.join(examples.labels)}"
            )
        return tuple(wanted[label] for label in examples.labels)
    for label, count in zip(examples.labels, examples.counts, strict=True):
        if not count:
            raise errors.UserError(
                f"{examples.name}: nothing of label {label!r}, whose balanced weight "
                "would be without end; give task.class_weights by label"
            )
    counts = examples.counts
    return tuple((counts.sum() / (len(counts) * counts)).tolist())
