"""What `gptjax tune` searches, and how."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic

from gptjax.config.base import NonNegative, Positive, Section

STUDY_LOCK = "study.lock"
"""Of the file that lies in the folder of a search, and in no other."""
Number = pydantic.StrictInt | pydantic.StrictFloat


class Space(Section):
    """What one key of the config may be: a range of numbers, or some choices."""

    low: Number | None = None
    high: Number | None = None
    """Both ends belong to the range; of whole numbers where the key takes no others."""
    log: bool = False
    """Draw its logarithm evenly, and not the number itself."""
    step: Annotated[Number, pydantic.Field(gt=0)] | None = None
    """Draw `low`, and what is a multiple of this above it; None: any number between."""
    choices: tuple[Any, ...] | None = None
    """Instead of a range: whatever the key takes, in no order."""

    @pydantic.model_validator(mode="after")
    def _one_way_to_say_it(self):
        ends = (self.low, self.high)
        if self.choices is not None:
            if any(end is not None for end in (*ends, self.step)) or self.log:
                raise ValueError("give choices, or low and high")
            told = [json.dumps(choice, sort_keys=True) for choice in self.choices]
            if len(told) < 2 or len(set(told)) < len(told):
                raise ValueError("choices: give two or more, none of them twice")
            return self
        if any(end is None for end in ends):
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: needs a low above 0, and no step")
        return self


class Search(Section):
    """How the spaces of `tune` are searched."""

    trials: Positive = 20
    """Runs to the end or to where the pruner stops them, by all processes together;
    those that fail are not counted."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: tree-structured Parzen estimators, where good trials lie (Bergstra et al.,
    "Algorithms for Hyper-Parameter Optimization", 2011). `grid`: every combination."""
    pruner: Literal["none", "median", "asha", "hyperband"] | None = None
    """Which trials are stopped by their evaluations on the way. `median`: those worse
    than the median of the others at that step. `asha`: all but the best quarter at each
    of ever later steps (Li et al., arXiv:1810.05934). `hyperband`: all but the best
    third, from several first steps on (Li et al., arXiv:1603.06560). None: `median`
    where there are evaluations on the way, else `none`."""
    warmup_steps: NonNegative = 0
    """No trial is stopped before so many steps."""
    startup_trials: NonNegative = 5
    """So many are drawn at random before `tpe`, and end before `median` compares."""
    seed: NonNegative = 0
    """Of the sampler."""
    storage: str | None = None
    """A database's URL, `sqlite:///study.db`, or a journal file; None: `study.journal`
    in the folder."""
    keep_trials: Literal["best", "all"] = "best"
    """Whose weights stay on disk."""
    confirm_seeds: tuple[NonNegative, ...] = ()
    """With each the best values and the config's own are trained once more at the end:
    how far one is ahead beyond the luck of a seed."""

    @pydantic.model_validator(mode="after")
    def _seeds_tell_apart(self):
        if len(set(self.confirm_seeds)) < len(self.confirm_seeds):
            raise ValueError("confirm_seeds: none of them twice")
        return self


def flat_spaces(value: Any) -> Any:
    """Spaces by dotted keys, whether these were written so or as nested mappings."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, space in _leaves(value):
        # A range that an override changes in part comes nested, the file's dotted.
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(space, Mapping):
            space = {**before, **space}
        found[key] = space
    return found


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, Mapping) and all(
            isinstance(each, Mapping) for each in value.values()
        )
        if is_section and value:
            yield from _leaves(value, key + ".")
        else:
            yield key, value
