"""What `gptjax curve` puts side by side."""

from typing import Literal

import pydantic

from gptjax.config.base import NonNegative, Positive, Section


class Curve(Section):
    """A run for each number of training texts and each seed.

    Where the config has `data.augmentation`, each runs with it and without.
    """

    sizes: tuple[Positive | Literal["all"], ...] = (100, 500, 2000, "all")
    """How many training texts; those of a smaller number are among those of a larger,
    by the same seed."""
    seeds: tuple[NonNegative, ...] = (0, 1, 2)
    """Each draws texts, their order, and what is new in the model; the table gives mean
    and spread."""

    @pydantic.model_validator(mode="after")
    def _tells_apart(self):
        for given in (self.sizes, self.seeds):
            if not given or len(set(given)) < len(given):
                raise ValueError("give sizes and seeds, none of them twice")
        return self
