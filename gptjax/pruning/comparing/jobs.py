"""The runs that a comparison is made of."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from gptjax import config, errors

# How much is pruned; what a comparison itself says of every method.
_AMOUNTS = ("sparsities", "fraction_per_round", "rounds")
REMOVED = "removed"
"""The pattern of a method that cuts and does not zero."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a comparison, which gives a row for each of its pruned rounds.

    Attributes:
      name: of its folder.
      settings: a whole config of its own.
    """

    name: str
    method: str
    seed: int
    settings: config.Run

    @property
    def pattern(self) -> str:
        """What the table calls the pattern of its zeros."""
        pruning = self.settings.pruning
        assert pruning is not None
        return REMOVED if pruning.structured else pruning.pattern


def planned(settings: config.Run) -> list[Job]:
    """The jobs of a comparison, every one of them checked.

    A method that prunes iteratively passes through all sparsities in one run; any
    other prunes to each from the model as it comes, in a run of its own.

    Raises:
      UserError: naming the method whose config is not one.
    """
    assert settings.compare is not None
    jobs = []
    for place, method in enumerate(settings.compare.methods):
        for seed in settings.compare.seeds:
            try:
                jobs += _of_method(settings, method, seed)
            except errors.UserError as error:
                raise errors.UserError(
                    f"compare.methods.{place} ({method.name}): {error}"
                ) from error
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise errors.UserError(
                f"compare.methods: two of them would write to runs/{name}; give them "
                "names that differ in letters or digits"
            )
    return jobs


def _of_method(settings: config.Run, method: config.Method, seed: int) -> Iterator[Job]:
    assert settings.compare is not None
    base = settings.model_dump(mode="json")
    for key in _AMOUNTS:
        if key in method.pruning:
            raise errors.UserError(
                f"pruning.{key}: give compare.sparsities, or the method's own"
            )
    chosen = method.sparsities or settings.compare.sparsities
    amounts: list[tuple[str, dict[str, Any]]]
    if method.brings_amount:
        amounts = [("", {})]
    elif method.pruning.get("schedule", "iterative") == "iterative":
        amounts = [("", {"sparsities": chosen})]
    else:
        amounts = [(f"-{s:g}", {"sparsities": [s]}) for s in chosen]
    for suffix, amount in amounts:
        name = f"{_as_file_name(method.name)}{suffix}-seed{seed}"
        values = base | {
            "seed": seed,
            "out": str(pathlib.Path(settings.out) / "runs" / name),
            "compare": None,
            "pruning": method.pruning | amount,
            "training": base["training"] | method.training,
            "distillation": base["distillation"]
            if method.distillation is None
            else method.distillation or None,
        }
        yield Job(name, method.name, seed, config.check(values))


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)
