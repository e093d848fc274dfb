"""Which structured rounds a run has: the shape of the model before and after each.

All of it follows from the config and the source's shape, so that a removal that
cannot be is told before anything is read or trained.
"""

import dataclasses
from typing import Any

from gptjax import config, errors, model
from gptjax.convert import families, padding
from gptjax.pruning import round_report


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of removal.

    Attributes:
      number: from 1; round 0 is the model as it comes.
      drop: what -> how many: of `layers`, of `neurons` or `heads` in each layer, of
        channels (`width`).
    """

    number: int
    removal: config.Removal
    before: model.Config
    after: model.Config
    drop: dict[str, int]

    @property
    def name(self) -> str:
        """The round's number as its folders are called."""
        return round_report.name(self.number)


def rounds(settings: config.Run, source: model.Config) -> tuple[Round, ...]:
    """The rounds of `pruning.structured`, in order.

    Raises:
      UserError: a removal that leaves or removes nothing, a layer that is not there,
        a width that is no multiple of the heads'; what transformers could not load.
    """
    assert settings.pruning is not None
    planned: list[Round] = []
    current = source
    for number, removal in enumerate(settings.pruning.structured, 1):
        where = f"pruning.structured.{number - 1}"
        drop = _drop(removal, current, where)
        after = _after(current, removal, drop, where)
        problem = padding.problem(after)
        if problem is not None:
            raise errors.UserError(f"{where}: {problem}")
        planned.append(Round(number, removal, current, after, drop))
        current = after
    return tuple(planned)


def _drop(removal: config.Removal, current: model.Config, where: str) -> dict[str, int]:
    if removal.what == "width":
        return _drop_width(removal, current, where)
    if removal.what == "heads":
        _check_heads(current, where)
    there = {
        "layers": current.n_layer,
        "neurons": current.mlp_width,
        "heads": current.kv_heads,
    }[removal.what]
    if removal.indices is not None:
        _check_indices(removal.indices, there, where)
        count = len(removal.indices)
    else:
        count = _count(removal, there, unit=1)
    _check_count(count, there, removal.what, where)
    return {removal.what: count}


def _drop_width(
    removal: config.Removal, current: model.Config, where: str
) -> dict[str, int]:
    """Channels, and the heads that would be too many for those that are left."""
    family = families.FAMILIES[current.family]
    if family.has_head_width:
        return _drop_channels(removal, current, family, where)
    # Of all heads that share keys.
    there, head_width = current.n_embd, current.head_width * current.queries
    count = _count(removal, there, unit=head_width)
    _check_count(count, there, "channels", where)
    if count % head_width or there % head_width:
        raise errors.UserError(
            f"{where}: {count} of {there} channels; both must be multiples of the "
            f"heads' width {head_width}, so that stock transformers loads what is left"
        )
    drop = {"width": count}
    too_many = current.kv_heads - (there - count) // head_width
    if too_many > 0:
        _check_heads(current, where)
        drop["heads"] = too_many
    return drop


def _drop_channels(
    removal: config.Removal, current: model.Config, family: families.Family, where: str
) -> dict[str, int]:
    """Channels alone: heads keep a width that is a field of its own."""
    there, unit = current.n_embd, current.n_head if family.divides_width else 1
    count = removal.count
    if removal.fraction is not None:
        # So that what is left is a multiple, whatever there was.
        count = there - unit * round((1 - removal.fraction) * there / unit)
    assert count is not None
    _check_count(count, there, "channels", where)
    if (there - count) % unit:
        raise errors.UserError(
            f"{where}: {count} of {there} channels; what is left must be a multiple of "
            f"the {unit} heads, so that stock transformers loads it"
        )
    return {"width": count}


def _check_heads(current: model.Config, where: str) -> None:
    if isinstance(current.positions, model.Alibi):
        raise errors.UserError(
            f"{where}: ALiBi gives each head a slope by its number, so that none can "
            "go without changing others"
        )


def _count(removal: config.Removal, there: int, *, unit: int) -> int:
    """How many go; a fraction is rounded to a multiple of `unit`."""
    if removal.count is not None:
        return removal.count
    assert removal.fraction is not None
    return unit * round(removal.fraction * there / unit)


def _check_count(count: int, there: int, what: str, where: str) -> None:
    if count == 0:
        raise errors.UserError(f"{where}: removes none of the {there} {what}")
    if count >= there:
        raise errors.UserError(
            f"{where}: removes {count} of {there} {what}; at least one must be left"
        )


def _check_indices(indices: tuple[int, ...], there: int, where: str) -> None:
    for index in indices:
        if index >= there:
            raise errors.UserError(
                f"{where}.indices: there is no layer {index}; the model has layers 0 "
                f"to {there - 1}"
            )
    if len(set(indices)) != len(indices):
        raise errors.UserError(f"{where}.indices: a layer is named twice")


def _after(
    current: model.Config, removal: config.Removal, drop: dict[str, int], where: str
) -> model.Config:
    changes: dict[str, Any] = {"head_dim": current.head_width}
    if "layers" in drop and current.windows is not None:
        if len({*current.windows}) > 1 and removal.indices is None:
            raise errors.UserError(
                f"{where}: the layers see windows of different widths, so that what is "
                "left is not known before; name the layers that go as indices"
            )
        gone = removal.indices or range(drop["layers"])
        changes["windows"] = tuple(
            width for layer, width in enumerate(current.windows) if layer not in gone
        )
    if "neurons" in drop or "width" in drop:
        # None would follow the width.
        changes["n_inner"] = current.mlp_width - drop.get("neurons", 0)
    return dataclasses.replace(
        current,
        n_layer=current.n_layer - drop.get("layers", 0),
        n_head=current.n_head - drop.get("heads", 0) * current.queries,
        n_kv_head=current.kv_heads - drop.get("heads", 0),
        n_embd=current.n_embd - drop.get("width", 0),
        **changes,
    )
