"""How configs of several families speak of rotary positions."""

import math
from collections.abc import Mapping
from typing import Any

from gptjax import errors, model

KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")

_LLAMA3 = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
# By its name, what a kind of scaling needs to know.
_KINDS = {"default": (), "linear": ("factor",), "llama3": _LLAMA3}


def read(
    values: Mapping[str, Any],
    head_width: int,
    n_positions: int,
    *,
    fraction: float | None = None,
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
) -> model.Rotary:
    """What stands under `KEYS`, in the words of transformers 5 or of those before it.

    Where two say another thing, the one holds that transformers takes.

    Args:
      fraction: of a head that is rotated where nothing is said; None: the family
        rotates heads whole, and transformers passes over what a config says of a part.
      names: what the family calls the base and the fraction outside of an object.

    Raises:
      UserError: a kind of scaling that gptjax does not implement, a value that is none.
    """
    both = ("rope_scaling", "rope_parameters")
    said = next((name for name in both if values.get(name)), both[0])
    found = values.get(said) or {}
    if not isinstance(found, Mapping):
        raise errors.UserError(f"{said} is {found!r}; it must be an object")
    found = {name: value for name, value in found.items() if value is not None}
    inside = {}
    for name, outside, default in zip(
        ("rope_theta", "partial_rotary_factor"),
        names,
        (10000.0, fraction or 1.0),
        strict=True,
    ):
        # Inside, it holds against the one outside.
        place, value = name, found.pop(name, None)
        if value is None and values.get(outside) is not None:
            place, value = outside, values[outside]
        inside[name] = default if value is None else _number(place, value)
    scaling = _scaling(said, found, n_positions)
    if fraction is None:
        if scaling is not None and inside["partial_rotary_factor"] != 1:
            # transformers heeds it in the frequencies alone, which then fit no head.
            raise errors.UserError(
                f"partial_rotary_factor is {inside['partial_rotary_factor']!r}; with "
                f"{said} the family rotates heads whole"
            )
        inside["partial_rotary_factor"] = 1.0
    return model.Rotary(
        dims=int(head_width * inside["partial_rotary_factor"]),
        theta=float(inside["rope_theta"]),
        scaling=scaling,
    )


def _scaling(
    said: str, found: Mapping[str, Any], n_positions: int
) -> model.Scaling | None:
    """What an object says beside the base and the fraction.

    Args:
      said: its name.
    """
    kind = found.get("rope_type", found.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise errors.UserError(
            f"{said} is of type {kind!r}; gptjax implements {', '.join(_KINDS)}"
        )
    # What speaks of other kinds alone says nothing.
    passed_over = {"rope_type", "type", *_LLAMA3} - {*_KINDS[kind]}
    found = {name: value for name, value in found.items() if name not in passed_over}
    if kind == "llama3":
        found.setdefault("original_max_position_embeddings", n_positions)
    if {*found} != {*_KINDS[kind]}:
        odd = sorted({*found} ^ {*_KINDS[kind]})[0]
        raise errors.UserError(
            f"{said} of type {kind}: {odd} is "
            + ("not known" if odd in found else "missing")
        )
    if not found:
        return None
    found = {name: _number(name, value) for name, value in found.items()}
    low, high = found.get("low_freq_factor"), found.get("high_freq_factor")
    if low is not None and low >= high:
        raise errors.UserError(
            f"low_freq_factor is {low!r}; it must be less than high_freq_factor, "
            f"{high!r}"
        )
    return model.Scaling(
        factor=float(found["factor"]),
        low=low,
        high=high,
        learnt_positions=found.get("original_max_position_embeddings"),
    )


def _number(name: str, value: Any) -> float:
    """A positive one, or an error."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise errors.UserError(f"{name} is {value!r}; it must be a positive number")
    return value


def write(config: model.Config) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which all versions of transformers read."""
    rotary = config.positions
    scaling: dict[str, Any] | None = None
    if rotary.scaling is not None:
        scaling = {"rope_type": "linear", "factor": rotary.scaling.factor}
        if rotary.scaling.low is not None:
            own = rotary.scaling
            numbers = (own.factor, own.low, own.high, own.learnt_positions)
            scaling = {
                "rope_type": "llama3",
                **dict(zip(_LLAMA3, numbers, strict=True)),
            }
    return {"rope_theta": rotary.theta, "rope_scaling": scaling}


def share(config: model.Config) -> float:
    """The fraction of a head that is rotated, as transformers reads it."""
    dims, width = config.positions.dims, config.head_width
    fraction = dims / width
    while int(width * fraction) < dims:
        # It rounds down, and the quotient may have been.
        fraction = math.nextafter(fraction, math.inf)
    return fraction
