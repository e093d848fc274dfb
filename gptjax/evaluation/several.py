"""How well a model does each of several tasks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax.evaluation.classification import Classification
from gptjax.evaluation.completions import Completions
from gptjax.evaluation.perplexity import Perplexity


@dataclasses.dataclass(frozen=True)
class Several:
    """The result of a main task, by which models are chosen, and those beside it."""

    main: Perplexity | Completions | Classification
    auxiliary: Mapping[str, Perplexity | Completions | Classification]

    @property
    def loss(self) -> float:
        """That of the main task."""
        return self.main.loss

    def figures(self) -> dict[str, float]:
        """The main task's, then the others' under their names."""
        others = {
            f"{name}_{key}": value
            for name, result in self.auxiliary.items()
            for key, value in result.figures().items()
        }
        return {**self.main.figures(), **others}

    def protocol(self) -> str:
        """The main task's."""
        return self.main.protocol()

    def to_json(self) -> dict[str, Any]:
        """The main task's, with the others' in `auxiliary`."""
        others = {name: result.to_json() for name, result in self.auxiliary.items()}
        return {**self.main.to_json(), "auxiliary": others}
