"""Which steps of a run are traced."""

import re

import pydantic

from gptjax import errors
from gptjax.config.base import Section


class Profile(Section):
    """A trace of some steps, for xprof or Perfetto, and their longest operations."""

    steps: str | None = None
    """First and last step, e.g. `10..12`, as `metrics.jsonl` counts them; None: no
    trace. A phase's first step compiles, and is no sample of the others."""
    phase: str | None = None
    """As in `metrics.jsonl`, e.g. `'02-random'`; None: the first that trains them."""

    @pydantic.field_validator("steps")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        if value is not None:
            match = re.fullmatch(r"(\d+)\.\.(\d+)", value)
            if match is None or not 1 <= int(match[1]) <= int(match[2]):
                raise ValueError(f"got {value!r}; write FIRST..LAST, e.g. 10..12")
        return value

    def bounds(self) -> tuple[int, int] | None:
        """The first and the last step."""
        if self.steps is None:
            return None
        first, last = self.steps.split("..")
        return int(first), int(last)


def profiling(option: str | None) -> list[str]:
    """The overrides that the option `--profile steps=10..12,phase=02` stands for.

    Raises:
      UserError: neither `steps` nor `phase`, or no value.
    """
    overrides = []
    for part in option.split(",") if option is not None else ():
        name, _, value = part.partition("=")
        if name not in Profile.model_fields or not value:
            raise errors.UserError(
                f"--profile: {option!r}; write steps=10..12 or steps=10..12,phase=02"
            )
        # Quoted: the phase 02 is no number.
        overrides.append(f"training.profile.{name}='{value}'")
    return overrides
