"""The keys that a search changes: checked against the config, drawn from, set in it."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from gptjax import config, errors

# What a search may not change: then trials would not compare.
_FIXED = (
    "evaluation",
    "model",
    "tokenizer",
    "data.valid",
    "data.valid_fraction",
    "data.append_eos",
    "data.respect_documents",
    "task",
)
_OWN = ("out", "tune", "search", "compare", "curve", "seed", "logging")
MISSING = object()
"""The config's own value of a key that it has not."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A key and what it may be.

    Attributes:
      is_whole: whether the key takes whole numbers alone.
      typed: its ends or choices as the config holds them once they are checked, `2.0`
        where `2` was written.
      own: the config's own value, as checked, or `MISSING`.
    """

    key: str
    space: config.Space
    is_whole: bool
    typed: tuple[Any, ...]
    own: Any

    def suggest(self, trial: Any) -> Any:
        """What an optuna trial gets of it, or has got already."""
        space = self.space
        if space.choices is not None:
            return trial.suggest_categorical(self.key, self.labels)
        ends = (self.key, space.low, space.high)
        if self.is_whole:
            return trial.suggest_int(*ends, log=space.log, step=space.step or 1)
        return trial.suggest_float(*ends, log=space.log, step=space.step)

    @property
    def labels(self) -> list[Any]:
        """The choices as a study stores them: lists and mappings as JSON."""
        return [_label(choice) for choice in self.space.choices or ()]

    def value(self, drawn: Any) -> Any:
        """The key's value, of what a study stores."""
        if self.space.choices is None:
            return drawn
        return self.space.choices[self.labels.index(drawn)]

    def own_drawn(self) -> Any:
        """What a study would store of the config's own value; `MISSING`: it has none,
        or one that lies outside."""
        space, own = self.space, self.own
        if space.choices is not None:
            return self.labels[self.typed.index(own)] if own in self.typed else MISSING
        is_number = isinstance(own, int | float) and not isinstance(own, bool)
        if not is_number or not space.low <= own <= space.high:
            return MISSING
        if space.step is not None:
            turns = (own - space.low) / space.step
            if not math.isclose(turns, round(turns), abs_tol=1e-8):
                return MISSING
        return own

    def grid(self) -> list[Any]:
        """Everything that may be drawn.

        Raises:
          UserError: there is no end of it.
        """
        space = self.space
        if space.choices is not None:
            return self.labels
        step = space.step or (1 if self.is_whole and not space.log else None)
        if step is None:
            raise errors.UserError(
                f"tune.{self.key}: sampler grid takes choices, or a range with a step"
            )
        count = math.floor((space.high - space.low) / step + 1e-8) + 1
        return [space.low + n * step for n in range(count)]


def _label(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | tuple | dict) else choice


def read(settings: config.Run) -> tuple[Parameter, ...]:
    """The parameters of a config's `tune`, each of its ends and choices tried on it.

    Raises:
      UserError: an unknown key, a value that it does not take, or one that would change
        what trials are compared by.
    """
    return tuple(_read(settings, key, space) for key, space in settings.tune.items())


def _read(settings: config.Run, key: str, space: config.Space) -> Parameter:
    # Without texts of its own the validation is taken from these.
    split = ("data.train",) if settings.data.valid is None else ()
    for fixed in (*_FIXED, *split, *_OWN):
        if key == fixed or key.startswith(fixed + "."):
            why = "is no setting" if fixed in _OWN else "trials are compared by it"
            raise errors.UserError(f"tune.{key}: cannot be searched: {why}")
    ends = (space.low, space.high) if space.choices is None else space.choices
    found = []
    for value in ends:
        tried = with_values(settings, {key: value})
        if _amount(tried) != _amount(settings):
            raise errors.UserError(
                f"tune.{key}: {value} changes how much is pruned in the end, and the "
                "less is pruned the better a model is; trials would not compare"
            )
        found.append(_lookup(tried.model_dump(mode="json"), key))
    is_whole = False
    if space.choices is None:
        if not all(type(value) in (int, float) for value in found):
            raise errors.UserError(f"tune.{key}: takes no numbers; give choices")
        is_whole = all(type(value) is int for value in found)
        if is_whole and isinstance(space.step, float):
            raise errors.UserError(
                f"tune.{key}.step: {space.step}; the key takes whole numbers"
            )
    own = _lookup(settings.model_dump(mode="json"), key)
    return Parameter(
        key=key, space=space, is_whole=is_whole, typed=tuple(found), own=own
    )


def with_values(settings: config.Run, values: Mapping[str, Any]) -> config.Run:
    """The config with other values of some dotted keys, checked.

    Raises:
      UserError: naming what it does not take.
    """
    changed = settings.model_dump(mode="json")
    for key, value in values.items():
        _set(changed, key, value)
    try:
        return config.check(changed)
    except errors.UserError as error:
        raise errors.UserError(f"tune: {error}") from error


def own_values(parameters: tuple[Parameter, ...]) -> dict[str, Any] | None:
    """The config's own values as a study stores them; None if one lies outside."""
    found = {each.key: each.own_drawn() for each in parameters}
    return None if MISSING in found.values() else found


def grid(parameters: tuple[Parameter, ...]) -> Iterator[dict[str, Any]]:
    """Every combination, as a study stores it; raises as `Parameter.grid`."""
    axes = [each.grid() for each in parameters]
    for values in itertools.product(*axes):
        yield {each.key: x for each, x in zip(parameters, values, strict=True)}


def _amount(settings: config.Run) -> Any:
    """How much of a model a run prunes in the end."""
    pruning = settings.pruning
    if pruning is None:
        return None
    cut = [(r.what, r.count, r.fraction, r.indices) for r in pruning.structured]
    return pruning.targets()[-1:], pruning.masks_from, pruning.prunable, cut


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return MISSING
    return values


def _set(values: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for place, part in enumerate(parents):
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
            continue
        if not isinstance(values, dict):
            raise _no_such(key, parents[:place], part)
        if values.get(part) is None:
            values[part] = {}
        values = values[part]
    if isinstance(values, list) and last.isdigit() and int(last) < len(values):
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        raise _no_such(key, parents, last)


def _no_such(key: str, parents: list[str], part: str) -> errors.UserError:
    return errors.UserError(f"tune.{key}: {'.'.join(parents)} has no {part}")
