"""Which structured rounds a run has: the shape of the model before and after each.

All of it follows from the config and the source's shape, so that a removal that
cannot be is told before anything is read or trained.
"""

import dataclasses

from gptjax import config, errors, model
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
        a width that is no multiple of the heads'.
    """
    assert settings.pruning is not None
    planned: list[Round] = []
    current = source
    for number, removal in enumerate(settings.pruning.structured, 1):
        where = f"pruning.structured.{number - 1}"
        drop = _drop(removal, current, where)
        after = _after(current, drop)
        planned.append(Round(number, removal, current, after, drop))
        current = after
    return tuple(planned)


def _drop(removal: config.Removal, current: model.Config, where: str) -> dict[str, int]:
    if removal.what == "width":
        return _drop_width(removal, current, where)
    there = {
        "layers": current.n_layer,
        "neurons": current.mlp_width,
        "heads": current.n_head,
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
    there, head_width = current.n_embd, current.head_width
    count = _count(removal, there, unit=head_width)
    _check_count(count, there, "channels", where)
    if count % head_width or there % head_width:
        raise errors.UserError(
            f"{where}: {count} of {there} channels; both must be multiples of the "
            f"heads' width {head_width}, so that stock transformers loads what is left"
        )
    drop = {"width": count}
    too_many = current.n_head - (there - count) // head_width
    if too_many > 0:
        drop["heads"] = too_many
    return drop


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


def _after(current: model.Config, drop: dict[str, int]) -> model.Config:
    changes = {"head_dim": current.head_width}
    if "neurons" in drop or "width" in drop:
        # None would follow the width.
        changes["n_inner"] = current.mlp_width - drop.get("neurons", 0)
    return dataclasses.replace(
        current,
        n_layer=current.n_layer - drop.get("layers", 0),
        n_head=current.n_head - drop.get("heads", 0),
        n_embd=current.n_embd - drop.get("width", 0),
        **changes,
    )
