"""What noise in a text costs models, side by side on the very same noised texts.

Of language models the figure is bits per byte of the noised text. Noise brings
surprises that no model could foresee, the same for all: so neither that figure nor its
ratio to the clean text's tells how robust a model is, and the ratio makes a worse model
look better. What is the same for all falls out of the difference between two models;
what noise costs one more than another is how far that difference grows from the clean
text. Even so a model that knows less has less to lose: one without any knowledge loses
nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

LANGUAGE, LABELS = "bits_per_byte", "accuracy"
"""The figures that models are held against each other by."""


class Spread(NamedTuple):
    """A mean over seeds."""

    mean: float
    sd: float | None
    """The standard deviation of a single seed's value; None of fewer than two."""

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """That of one value for each seed."""
        several = len(values) > 1
        return cls(float(values.mean()), float(values.std(ddof=1)) if several else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """What models make of a text, clean and under noise, and how that was measured."""

    models: tuple[str, ...]
    """The others are held against the first."""
    noises: tuple[str, ...]
    rates: tuple[float, ...]
    """Fractions of words that noise touches, rising; without 0."""
    seeds: tuple[int, ...]
    key: str
    """The figure that the models are held against each other by."""
    clean: Mapping[str, Mapping[str, float]]
    """The figures of each model without noise."""
    noised: Mapping[tuple[str, str, float], tuple[Mapping[str, float], ...]]
    """Those of (model, noise, rate), one set for each seed."""
    protocol: str
    """One line with everything that the figures depend on but the models."""

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self.key == LABELS

    def values(
        self, model: str, noise: str, rate: float, key: str | None = None
    ) -> np.ndarray:
        """A figure for each seed; one alone at rate 0, where no seed matters."""
        cells = self.noised[model, noise, rate] if rate else (self.clean[model],)
        return np.array([cell[key or self.key] for cell in cells])

    def cost(self, model: str, noise: str, rate: float) -> np.ndarray:
        """By how much noise makes a model's figure worse than the clean text's."""
        change = self.values(model, noise, rate) - self.clean[model][self.key]
        return -change if self.rises else change

    def behind(self, model: str, noise: str, rate: float) -> np.ndarray:
        """By how much a model's figure is worse than the first's, on the same texts."""
        first = self.values(self.models[0], noise, rate)
        difference = self.values(model, noise, rate) - first
        return -difference if self.rises else difference

    def extra(self, model: str, noise: str, rate: float) -> np.ndarray:
        """How much more noise costs a model than the first, text by noised text."""
        first = self.models[0]
        return self.cost(model, noise, rate) - self.cost(first, noise, rate)

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each noise, rate and model, as it stands in JSON."""
        return [
            {
                "noise": noise,
                "rate": rate,
                "model": model,
                **{
                    name: Spread.of(self.values(model, noise, rate, name))._asdict()
                    for name in self.clean[model]
                },
                "cost": Spread.of(self.cost(model, noise, rate))._asdict(),
                "behind": Spread.of(self.behind(model, noise, rate))._asdict(),
                "extra": Spread.of(self.extra(model, noise, rate))._asdict(),
                "by_seed": [dict(cell) for cell in self.noised[model, noise, rate]],
            }
            for noise in self.noises
            for rate in self.rates
            for model in self.models
        ]

    def figures(self) -> dict[str, Any]:
        """All of it, as it stands in JSON."""
        return {
            "protocol": self.protocol,
            "figure": self.key,
            "models": list(self.models),
            "seeds": list(self.seeds),
            "clean": {name: dict(own) for name, own in self.clean.items()},
            "noised": self.rows(),
        }
