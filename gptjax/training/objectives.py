"""What a training step makes smaller: the mean loss of a batch, by the task."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gptjax import data, model
from gptjax.training import loss as loss_lib

Batch = dict[str, Any]
"""Arrays by name; of one of several tasks, `{task: batch}`."""

_SHIFT = "shift"


class Objective(Protocol):
    """The loss of a batch as a sum over its parts. Hashable: a step compiles for it."""

    def metrics(self, batch: Batch, loss: jax.Array) -> dict[str, jax.Array]:
        """Scalars to be logged of a batch of arrays (..., T) with that mean loss."""
        ...

    def scale(self, batch: Batch) -> Any:
        """What `loss` needs to know of the whole batch, to be a share of its mean."""
        ...

    def is_read(self, config: model.Config, part: Batch) -> jax.Array:
        """Which tokens of a part are no padding, bool BT; for adversaries alone."""
        ...

    def loss(
        self,
        config: model.Config,
        params: Any,
        part: Batch,
        scale: Any,
        *,
        compute: model.Compute,
        dropout_key: jax.Array | None,
        frozen: Any = None,
    ) -> jax.Array:
        """The loss of a part (B, T), float32: those of all parts add up to the mean.

        Args:
          frozen: arrays that are not trained, a teacher's.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Through:
    """A task's objective, but for its loss: that of params made of the trained ones."""

    task: Objective

    def metrics(self, batch: Batch, loss: jax.Array) -> dict[str, jax.Array]:
        """Those of the task."""
        return self.task.metrics(batch, loss)

    def scale(self, batch: Batch) -> Any:
        """As the task scales."""
        return self.task.scale(batch)

    def is_read(self, config: model.Config, part: Batch) -> jax.Array:
        """As the task says."""
        return self.task.is_read(config, part)


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """The mean negative log-likelihood of the next token, in nats.

    Batches hold `tokens` and `labels`, and `segments` where documents are kept apart;
    all (..., T).
    """

    def metrics(self, batch, loss):
        del loss
        return {"tokens": self.count(batch)}

    def is_read(self, config, part):
        del config
        return jnp.ones(part["tokens"].shape, bool)

    def count(self, batch: Batch) -> jax.Array:
        """How many tokens are predicted in a batch, int32."""
        return loss_lib.predicted(batch["labels"])

    def scale(self, batch: Batch) -> jax.Array:
        # In the loss, so that no pass over all gradients has to divide them.
        return 1 / jnp.maximum(self.count(batch), 1).astype(jnp.float32)

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen=None):
        del frozen
        x_BTD = model.hidden(
            config,
            params,
            part["tokens"],
            compute=compute,
            dropout_key=dropout_key,
            segments_BT=part.get("segments"),
            shift_BTD=part.get(_SHIFT),
        )
        return loss_lib.next_token_loss(
            config, params, x_BTD, part["labels"], compute=compute, weight=scale
        )[0]


LANGUAGE = LanguageModelling()


@dataclasses.dataclass(frozen=True)
class Answers(LanguageModelling):
    """The same of answers alone: what else there is has the label -100."""

    def is_read(self, config, part):
        del config
        return part["segments"] != data.PADDING


ANSWERS = Answers()


@dataclasses.dataclass(frozen=True)
class Classification:
    """The mean cross-entropy of the classes of texts or words, in nats, weighted by
    class.

    As `torch.nn.CrossEntropyLoss` has it: with weights, their sum and not the number
    of texts divides. `language_weight` adds so many times the language-modelling loss
    of the same texts (Radford et al., "Improving Language Understanding by Generative
    Pre-Training", 2018, section 3.2).

    Batches hold `tokens` (..., T) and `classes`, -100 where there is none: of texts
    (...), of words (..., T), each at its last token.
    """

    classifier: str
    class_weights: tuple[float, ...] | None = None
    """None: 1 for each class."""
    language_weight: float = 0.0
    unit: str = "texts"
    """What has classes, as metrics call it."""

    def metrics(self, batch, loss):
        del loss
        return {self.unit: (batch["classes"] != data.UNKNOWN).sum()}

    def scale(self, batch: Batch) -> dict[str, jax.Array]:
        scales = {"classes": 1 / jnp.maximum(self.weights(batch).sum(), 1e-9)}
        if self.language_weight:
            scales["tokens"] = self.language_weight * LANGUAGE.scale(batch)
        return scales

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen=None):
        del frozen
        x_BTD = model.hidden(
            config,
            params,
            part["tokens"],
            compute=compute,
            dropout_key=dropout_key,
            shift_BTD=part.get(_SHIFT),
        )
        logits = model.label_logits(
            config,
            params,
            x_BTD,
            part["tokens"],
            classifier=self.classifier,
            compute=compute,
        )
        nll = loss_lib.class_nll(logits, part["classes"])
        total = (nll * self.weights(part) * scale["classes"]).sum()
        if self.language_weight:
            total += loss_lib.next_token_loss(
                config,
                params,
                x_BTD,
                part["labels"],
                compute=compute,
                weight=scale["tokens"],
            )[0]
        return total

    def is_read(self, config, part):
        return model.is_text(config, part["tokens"], self.classifier)

    def weights(self, batch: Batch) -> jax.Array:
        """What each class counts, float32."""
        classes = batch["classes"]
        if self.class_weights is None:
            return (classes != data.UNKNOWN).astype(jnp.float32)
        weights = jnp.asarray(self.class_weights, jnp.float32)
        return jnp.where(classes != data.UNKNOWN, weights[classes], 0)


@dataclasses.dataclass(frozen=True)
class Several:
    """The loss of one of several tasks, by which of them a batch is, weighted.

    The tasks share the trunk, and each has its own head (Liu et al., "Multi-Task Deep
    Neural Networks for Natural Language Understanding", 2019, arXiv:1901.11504).

    Batches are `{task: batch}`: what they hold decides, so that a step compiles once
    for each task.
    """

    tasks: tuple[tuple[str, Objective, float], ...]
    """Names, objectives and weights."""

    def metrics(self, batch, loss):
        """Of the task's own, under its name, and its loss before the weight."""
        name, objective, weight = self._of(batch)
        found = {"loss": loss / weight, **objective.metrics(batch[name], loss / weight)}
        return {f"{name}_{key}": value for key, value in found.items()}

    def scale(self, batch: Batch) -> Any:
        name, objective, _ = self._of(batch)
        return objective.scale(batch[name])

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen=None):
        name, objective, weight = self._of(part)
        return weight * objective.loss(
            config,
            params,
            part[name],
            scale,
            compute=compute,
            dropout_key=dropout_key,
            frozen=frozen,
        )

    def is_read(self, config, part):
        name, objective, _ = self._of(part)
        return objective.is_read(config, part[name])

    def _of(self, batch: Batch) -> tuple[str, Objective, float]:
        (name,) = batch
        return next(each for each in self.tasks if each[0] == name)


def tokens_of(batch: Batch) -> jax.Array:
    """The token ids (..., T) of a batch, of whichever task it is."""
    while "tokens" not in batch:
        (batch,) = batch.values()
    return batch["tokens"]


def shifted(batch: Batch, shift_BTD: jax.Array | None) -> Batch:
    """A part whose embeddings are moved; itself where `shift_BTD` is None."""
    if shift_BTD is None:
        return batch
    if "tokens" not in batch:
        return {name: shifted(each, shift_BTD) for name, each in batch.items()}
    return {**batch, _SHIFT: shift_BTD}
