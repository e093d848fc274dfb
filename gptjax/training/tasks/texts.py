"""What a task trains and validates on."""

import dataclasses
from collections.abc import Mapping

from gptjax import data


@dataclasses.dataclass(frozen=True)
class Texts:
    """Of a task, or of several."""

    train: data.Tokens | data.Examples | data.Instructions
    valid: data.Tokens | data.Examples | data.Instructions | None
    auxiliary: Mapping[str, "Texts"] = dataclasses.field(default_factory=dict)
    """Those of the auxiliary tasks; the fields above are the main one's."""
