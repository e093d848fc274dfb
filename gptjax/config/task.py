"""What a run trains for."""

from typing import Annotated, Literal

import pydantic

from gptjax.config.base import Section
from gptjax.config.data import Data

MAIN = "main"
"""What a run's own task is called among several."""

_CLASSIFIERS = ("classification", "tagging")
_OWNERS = {
    "name": _CLASSIFIERS,
    "class_weights": _CLASSIFIERS,
    "language_weight": _CLASSIFIERS,
    "chat_template": ("instructions",),
}
"""Which kinds a key is of."""


class Task(Section):
    """What a run trains for."""

    kind: Literal["language", "classification", "tagging", "instructions"] = "language"
    """`language`: the next token. `classification`: the label of a text, by a linear
    layer on its last token, as Hugging Face's `GPT2ForSequenceClassification` has.
    `tagging`: the label of each word, by one on the word's last token, as its
    `GPT2ForTokenClassification` has. `instructions`: what answers a prompt, or what the
    assistant says in a chat."""
    name: Annotated[str, pydantic.Field(pattern=r"^\w+$")] = "label"
    """Of the classifier. A model that has one of this name goes on with it and with its
    labels; else a new one learns those of the training texts."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What a text of a label weighs in the loss; `balanced`: every label as much as any
    other; None: every text."""
    language_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """How much of the language-modelling loss of the same texts is added (GPT-1, 2018,
    takes 0.5)."""
    chat_template: str | None = None
    """Of instructions: a file with the Jinja template that writes chats, which the
    export then has; None: the tokenizer's own, or gptjax's where it has none."""

    @property
    def has_classifier(self) -> bool:
        """Whether it is the task of a classifier, and not of the scores of tokens."""
        return self.kind in _CLASSIFIERS

    @pydantic.field_validator("class_weights", mode="before")
    @classmethod
    def _labels_are_text(cls, value):
        """YAML reads the label 1 as a number."""
        if isinstance(value, dict):
            return {str(label): weight for label, weight in value.items()}
        return value

    @pydantic.model_validator(mode="after")
    def _fits_its_kind(self):
        for name, field in type(self).model_fields.items():
            owners = _OWNERS.get(name, (self.kind,))
            if self.kind not in owners and getattr(self, name) != field.default:
                raise ValueError(f"{name}: kind {self.kind} has none; leave it out")
        if isinstance(self.class_weights, dict) and not all(
            weight > 0 for weight in self.class_weights.values()
        ):
            raise ValueError("class_weights: they must be positive")
        return self


class Auxiliary(Section):
    """A further task that shares the trunk with the main one."""

    task: Task = Task()
    """A classifier is called as the task itself is, not by a `name` here."""
    data: Data
    loss_weight: Annotated[float, pydantic.Field(gt=0)] = 1.0
    """What its loss is multiplied by; the main task's is not."""

    @pydantic.model_validator(mode="after")
    def _is_named_outside(self):
        if self.task.name != Task.model_fields["name"].default:
            raise ValueError("task.name: it is the auxiliary task's own; leave it out")
        if self.data.train is None:
            raise ValueError("data.train: missing; a task needs texts to train on")
        return self


class Mixing(Section):
    """Of which task a step's batch is, where there are several: drawn anew each step.

    Without either of the two, every task has the same chance.
    """

    weights: dict[str, Annotated[float, pydantic.Field(gt=0)]] | None = None
    """The chance of each task, in any unit; the main one is called `main`."""
    temperature: Annotated[float, pydantic.Field(gt=0)] | None = None
    """T: a task's chance goes by the power 1 / T of how many training sequences or
    texts it has (Raffel et al., arXiv:1910.10683). 1: by their number."""

    @pydantic.model_validator(mode="after")
    def _one_of_the_two(self):
        if self.weights is not None and self.temperature is not None:
            raise ValueError("temperature: weights say it all; leave one out")
        return self
