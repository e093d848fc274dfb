"""What all sections of a config share."""

from typing import Annotated, Literal

import pydantic

Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = Annotated[int, pydantic.Field(gt=0)]
NonNegative = Annotated[int, pydantic.Field(ge=0)]
ComputeDtype = Literal["float32", "bfloat16"]


class Section(pydantic.BaseModel):
    """A part of a config: frozen, and refusing every key that it does not know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
