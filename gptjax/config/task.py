"""What a run trains for."""

from typing import Annotated, Literal

import pydantic

from gptjax.config.base import Section


class Task(Section):
    """What a run trains for."""

    kind: Literal["language", "classification"] = "language"
    """`language`: the next token. `classification`: the label of a text, by a linear
    layer on its last token, as Hugging Face's `GPT2ForSequenceClassification` has."""
    name: Annotated[str, pydantic.Field(pattern=r"^\w+$")] = "label"
    """Of the classifier. A model that has one of this name goes on with it and with its
    labels; else a new one learns those of the training texts."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What a text of a label weighs in the loss; `balanced`: every label as much as any
    other; None: every text."""
    language_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """How much of the language-modelling loss of the same texts is added (GPT-1, 2018,
    takes 0.5)."""

    @pydantic.field_validator("class_weights", mode="before")
    @classmethod
    def _labels_are_text(cls, value):
        """YAML reads the label 1 as a number."""
        if isinstance(value, dict):
            return {str(label): weight for label, weight in value.items()}
        return value

    @pydantic.model_validator(mode="after")
    def _fits_its_kind(self):
        for name in ("name", "class_weights", "language_weight"):
            default = type(self).model_fields[name].default
            if self.kind == "language" and getattr(self, name) != default:
                raise ValueError(f"{name}: kind language has none; leave it out")
        if isinstance(self.class_weights, dict) and not all(
            weight > 0 for weight in self.class_weights.values()
        ):
            raise ValueError("class_weights: they must be positive")
        return self
