"""What `gptjax compare` puts side by side."""

from typing import Any

import pydantic

from gptjax.config.base import NonNegative, Section
from gptjax.config.pruning import Sparsity, pattern_as_written


class Method(Section):
    """One way of making the model smaller: changes of the config's other sections."""

    name: str
    """What it is called in the table and the pictures."""
    pruning: dict[str, Any]
    """The method's `pruning` section, but its sparsities."""
    training: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Changes of the `training` section, e.g. `steps: 0`."""
    distillation: dict[str, Any] | None = None
    """The method's `distillation` section, `{}` for no teacher; None: that of the
    config, if any."""
    sparsities: tuple[Sparsity, ...] | None = None
    """None: those of `compare`. None, too, where N:M, `masks_from` or `structured` say
    how much goes."""

    @pydantic.model_validator(mode="after")
    def _says_once_how_much(self):
        if self.sparsities is None:
            return self
        if self.brings_amount:
            raise ValueError(
                "sparsities: a pattern N:M, masks_from and structured say themselves "
                "how much goes; leave them out"
            )
        if not self.sparsities or len(set(self.sparsities)) < len(self.sparsities):
            raise ValueError("sparsities: give some, none of them twice")
        return self

    @property
    def brings_amount(self) -> bool:
        """Whether the `pruning` section says by itself how much goes."""
        pattern = pattern_as_written(self.pruning.get("pattern", ""))
        return ":" in str(pattern) or any(
            self.pruning.get(key) for key in ("masks_from", "structured")
        )


class Compare(Section):
    """Methods x sparsities x seeds, each a row."""

    methods: tuple[Method, ...]
    sparsities: tuple[Sparsity, ...] = (0.5,)
    """Tried by every method, each from the model as it comes; an iterative one passes
    through them in a single run."""
    seeds: tuple[NonNegative, ...] = (0,)
    """Every method runs once with each; the table gives mean and spread."""

    @pydantic.model_validator(mode="after")
    def _names_tell_apart(self):
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names) or not names:
            raise ValueError("methods need names of their own")
        for given in (self.seeds, self.sparsities):
            if not given or len(set(given)) < len(given):
                raise ValueError("give sparsities and seeds, none of them twice")
        if self.sparsities != type(self).model_fields["sparsities"].default and all(
            method.brings_amount or method.sparsities for method in self.methods
        ):
            raise ValueError(
                "sparsities: every method brings its own; leave them out here"
            )
        return self
