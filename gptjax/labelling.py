"""What a model's classifiers make of texts at hand."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from gptjax import data, errors, evaluation, model


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier makes of a text, or of a word.

    Attributes:
      label: the likeliest.
      probabilities: of each label; together 1.
    """

    label: str
    probabilities: dict[str, float]


def classifier(
    config: model.Config, folder: pathlib.Path, task: str | None
) -> model.Classifier:
    """The classifier of a task, or the only one that a model has.

    Args:
      folder: what messages call the model.

    Raises:
      UserError: there is none, or there are several and none is named.
    """
    known = {each.name: each for each in config.classifiers}
    if not known:
        raise errors.UserError(
            f"{folder}: no classifier; the model is a language model"
        )
    names = ", ".join(known)
    if task is None and len(known) > 1:
        raise errors.UserError(
            f"{folder}: the model has the classifiers {names}; say which (`task`)"
        )
    if task is not None and task not in known:
        raise errors.UserError(f"{folder}: task {task!r}; the model has {names}")
    return config.classifiers[0] if task is None else known[task]


def predictions(
    config: model.Config,
    params: Any,
    examples: data.Examples,
    classifier: model.Classifier,
    *,
    batch_sequences: int,
) -> list[Prediction]:
    """Of all texts, or of all their words that the model reads."""
    if not len(examples):
        return []
    logits_MN = evaluation.label_logits(
        config,
        params,
        examples,
        classifier=classifier.name,
        sequence_tokens=config.n_positions,
        batch_sequences=batch_sequences,
    )
    chances_MN = np.exp(logits_MN - np.logaddexp.reduce(logits_MN, -1)[:, None])
    return [
        Prediction(
            label=classifier.labels[chances_N.argmax()],
            probabilities=dict(zip(classifier.labels, chances_N.tolist(), strict=True)),
        )
        for chances_N in chances_MN
    ]
