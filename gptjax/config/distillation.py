"""What a model learns from a teacher."""

from typing import Annotated

import pydantic

from gptjax.config.base import Fraction, NonNegative, Positive, Section


class Distillation(Section):
    """A teacher that a model learns from beside its texts."""

    teacher: str
    """`dense`: the model that round 0 of a pruning run ends with. Else a Hugging Face
    folder, a run folder, a hub name, or `packaged`."""
    weight: Fraction = 0.5
    """Of the loss, how much is the divergence from the teacher's scores; the rest is
    that of the texts."""
    temperature: Annotated[float, pydantic.Field(gt=0)] = 2.0
    """What scores are divided by before they are compared."""
    hidden_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """What the distance of the layers' states from the teacher's counts in the loss; it
    is in units of their squared length, and takes memory for every layer."""
    attention_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """What the divergence of attention from the teacher's counts; it takes memory for
    all pairs of tokens of every layer and head."""
    cache_top_k: Positive | None = None
    """The teacher reads every training sequence once, before, and for every token so
    many of its likeliest next ones are kept on disk, with what all others have
    together: of those alone students learn. None: it reads every batch beside the
    student, and nothing is left out."""
    cache_dir: str | None = None
    """The folder where they are kept, for several runs to share; None: `teacher/` in
    the run folder."""
    layers: tuple[tuple[NonNegative, NonNegative], ...] | None = None
    """Pairs of a layer of the student and one of the teacher, counted from 0, that
    those two weights compare; None: evenly spread, the last ones together."""

    @pydantic.model_validator(mode="after")
    def _layers_are_compared(self):
        if self.layers is not None and not (
            self.hidden_weight or self.attention_weight
        ):
            raise ValueError(
                "layers: neither hidden_weight nor attention_weight compares them; "
                "leave them out"
            )
        if self.layers == ():
            raise ValueError("layers: give some pairs, or leave them out")
        default = type(self).model_fields["temperature"].default
        if not self.weight and self.temperature != default:
            raise ValueError("temperature: weight 0 compares no scores; leave it out")
        self._check_cache()
        if not (self.weight or self.hidden_weight or self.attention_weight):
            raise ValueError("weight: 0, and no other: the teacher would teach nothing")
        return self

    def _check_cache(self) -> None:
        if self.cache_top_k is None:
            if self.cache_dir is not None:
                raise ValueError("cache_dir: nothing is kept without cache_top_k")
            return
        for name in ("hidden_weight", "attention_weight"):
            if getattr(self, name):
                raise ValueError(
                    f"cache_top_k: keeps scores alone, and {name} compares more; leave "
                    "one out"
                )
        if self.cache_dir is not None and "://" in self.cache_dir:
            raise ValueError(
                f"cache_dir: {self.cache_dir} is no folder of this machine, or of a "
                "disk that it shares"
            )
