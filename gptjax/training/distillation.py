"""Learning from a teacher: its scores, its states, its attention.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531;
Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", 2020,
arXiv:1909.10351; of layers dropped, Sanh et al., "DistilBERT", 2019, arXiv:1910.01108.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import config as config_lib
from gptjax import errors, model
from gptjax.training import loss as loss_lib
from gptjax.training import objectives, teacher_scores


@dataclasses.dataclass(frozen=True)
class Distillation:
    """(1 - weight) of a task's loss, and `weight` t^2 KL(teacher || student).

    On top come, so many times: the squared distance of the student's states from the
    teacher's, in units of the teacher's squared length; and the divergence of its
    attention from the teacher's, a mean over heads. Both are means over paired layers
    and over tokens. All in float32; the KL is that of logits over the temperature t.
    """

    task: objectives.LanguageModelling | objectives.Classification
    teacher: model.Config
    temperature: float
    weight: float
    hidden_weight: float
    attention_weight: float
    layers: tuple[tuple[int, int], ...]
    """Pairs of a student's layer and the teacher's that it learns from."""

    def metrics(self, batch, loss):
        """Those of the task."""
        return self.task.metrics(batch, loss)

    def scale(self, batch: objectives.Batch) -> Any:
        """As the task scales."""
        return self.task.scale(batch)

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen):
        """The loss of a part; `frozen` is the teacher's params."""
        wanted = {
            "states": self.hidden_weight > 0,
            "attention": self.attention_weight > 0,
            "segments_BT": part.get("segments"),
            "compute": compute,
        }
        tokens_BT = part["tokens"]
        x_BTD, inside = model.hidden_and_inside(
            config, params, tokens_BT, dropout_key=dropout_key, **wanted
        )
        teacher_BTD, shown = model.hidden_and_inside(
            self.teacher, frozen, tokens_BT, **wanted
        )
        total, weights_BT = self._scores(
            config, params, part, scale, x_BTD, frozen, teacher_BTD, compute
        )
        if self.hidden_weight:
            away_BT = self._mean(_distance, inside.states_LBTD, shown.states_LBTD)
            total += self.hidden_weight * (weights_BT * away_BT).sum()
        if self.attention_weight:
            away_BT = self._mean(
                _divergence, inside.attention_LBHTS, shown.attention_LBHTS
            )
            total += self.attention_weight * (weights_BT * away_BT).sum()
        return total

    def _scores(
        self, config, params, part, scale, x_BTD, teacher_params, teacher_BTD, compute
    ):
        """What scores cost, and what a token counts in means over tokens."""
        if isinstance(self.task, objectives.LanguageModelling):
            targets_BT, is_predicted_BT = loss_lib.targets(part["labels"])
            weights_BT = jnp.where(is_predicted_BT, scale, 0)
            total = model.distilled_loss(
                config,
                params,
                x_BTD,
                targets_BT,
                (1 - self.weight) * weights_BT,
                model.Teaching(
                    self.teacher,
                    teacher_params,
                    teacher_BTD,
                    self.weight * weights_BT,
                    self.temperature,
                ),
                compute=compute,
            )
            return total, weights_BT
        own, taught = (
            model.label_logits(
                *each,
                part["tokens"],
                classifier=self.task.classifier,
                compute=compute,
            )
            for each in (
                (config, params, x_BTD),
                (self.teacher, teacher_params, teacher_BTD),
            )
        )
        weights_B = self.task.weights(part) * scale["classes"]
        nll_B = loss_lib.class_nll(own, part["classes"])
        kl_B = self.temperature**2 * model.divergence(
            *(jax.nn.log_softmax(x / self.temperature) for x in (taught, own))
        )
        total = (weights_B * ((1 - self.weight) * nll_B + self.weight * kl_B)).sum()
        is_text_BT = model.is_text(config, part["tokens"], self.task.classifier)
        shares_BT = is_text_BT / is_text_BT.sum(-1, keepdims=True)
        return total, weights_B[:, None] * shares_BT

    def _mean(self, apart, own, shown):
        """The mean of how far apart paired layers are, BT."""
        pairs = [
            apart(own[student], shown[teacher]) for student, teacher in self.layers
        ]
        return sum(pairs) / len(pairs)


@dataclasses.dataclass(frozen=True)
class Recollection:
    """(1 - weight) of the loss, and `weight` t^2 KL(teacher || student) by what is kept
    of the teacher's scores.

    Batches hold `teacher_scores.IDS` and `LOG_CHANCES` beside what the loss needs. The
    KL is that of chances of the kept words and of all others together; see
    `model.distilling.recalled`.
    """

    temperature: float
    weight: float

    def metrics(self, batch, loss):
        """Those of language modelling."""
        return objectives.LANGUAGE.metrics(batch, loss)

    def scale(self, batch: objectives.Batch) -> jax.Array:
        """As language modelling scales."""
        return objectives.LANGUAGE.scale(batch)

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen=None):
        """The loss of a part."""
        del frozen
        x_BTD = model.hidden(
            config,
            params,
            part["tokens"],
            compute=compute,
            dropout_key=dropout_key,
            segments_BT=part.get("segments"),
        )
        targets_BT, is_predicted_BT = loss_lib.targets(part["labels"])
        weights_BT = jnp.where(is_predicted_BT, scale, 0)
        return model.recalled_loss(
            config,
            params,
            x_BTD,
            targets_BT,
            (1 - self.weight) * weights_BT,
            model.Remembered(
                part[teacher_scores.IDS],
                part[teacher_scores.LOG_CHANCES],
                self.weight * weights_BT,
            ),
            temperature=self.temperature,
            compute=compute,
        )


def _distance(x_BTD: jax.Array, teacher_BTD: jax.Array) -> jax.Array:
    x_BTD, teacher_BTD = (x.astype(jnp.float32) for x in (x_BTD, teacher_BTD))
    length_BT = jnp.square(teacher_BTD).sum(-1)
    return jnp.square(x_BTD - teacher_BTD).sum(-1) / jnp.maximum(length_BT, 1e-12)


def _divergence(log_BHTS: jax.Array, teacher_BHTS: jax.Array) -> jax.Array:
    return model.divergence(teacher_BHTS, log_BHTS).mean(1)


def make(
    settings: config_lib.Distillation,
    task: objectives.Objective,
    student: model.Config,
    teacher: model.Config,
    *,
    name: str,
) -> Distillation:
    """The objective of a run's config, for a student and a teacher of these shapes.

    Args:
      name: what messages call the teacher.

    Raises:
      UserError: the two do not fit together, and in what.
    """
    where = f"distillation.teacher: {name}"
    if teacher.vocab_size != student.vocab_size:
        raise errors.UserError(
            f"{where}: its vocabulary has {teacher.vocab_size} tokens, the student's "
            f"{student.vocab_size}; a teacher needs the student's"
        )
    kept = settings.cache_top_k or 0
    if kept > student.vocab_size:
        raise errors.UserError(
            f"distillation.cache_top_k: {kept} is more than the vocabulary's "
            f"{student.vocab_size} tokens"
        )
    if isinstance(task, objectives.Classification):
        own = student.classifier(task.classifier).labels
        labels = [c.labels for c in teacher.classifiers if c.name == task.classifier]
        if labels != [own]:
            has = ", ".join(labels[0]) if labels else "none"
            raise errors.UserError(
                f"{where}: its classifier {task.classifier} has the labels {has}; the "
                f"student's are {', '.join(own)}, in that order"
            )
        # Batches are filled up with the student's padding.
        teacher = dataclasses.replace(teacher, classifiers=student.classifiers)
    elif not teacher.predicts_tokens:
        raise errors.UserError(f"{where}: a classifier has no scores of the next token")
    for weight, field in (("hidden_weight", "n_embd"), ("attention_weight", "n_head")):
        one, other = getattr(student, field), getattr(teacher, field)
        if getattr(settings, weight) and one != other:
            raise errors.UserError(
                f"distillation.{weight}: needs a teacher with the student's {field} "
                f"{one}; {name} has {other}"
            )
    return Distillation(
        task=task,
        teacher=teacher.without_dropout(),
        temperature=settings.temperature,
        weight=settings.weight,
        hidden_weight=settings.hidden_weight,
        attention_weight=settings.attention_weight,
        layers=_pairs(settings.layers, student.n_layer, teacher.n_layer),
    )


def _pairs(
    given: tuple[tuple[int, int], ...] | None, students: int, teachers: int
) -> tuple[tuple[int, int], ...]:
    """The layer map; by default evenly spread, the last layers together."""
    if given is None:
        return tuple(
            (layer, -(-(layer + 1) * teachers // students) - 1)
            for layer in range(students)
        )
    for student, teacher in given:
        if student >= students or teacher >= teachers:
            raise errors.UserError(
                f"distillation.layers: {student} and {teacher}; the student has layers "
                f"0 to {students - 1}, the teacher 0 to {teachers - 1}"
            )
    return given
