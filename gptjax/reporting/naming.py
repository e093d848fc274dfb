"""What readers call models and runs that are told apart by their paths."""

from collections.abc import Sequence


def short(names: Sequence[str], *, at_least: int = 1) -> dict[str, str]:
    """The ends of paths, as long as it takes to tell them apart, without what all end
    in.

    Args:
      at_least: how many parts of a path are kept where it has so many.
    """
    parts = {name: name.rstrip("/").split("/") for name in names}
    while len({own[-1] for own in parts.values()}) == 1 < len(parts) and all(
        len(own) > at_least for own in parts.values()
    ):
        parts = {name: own[:-1] for name, own in parts.items()}
    longest = max(map(len, parts.values()))
    for count in range(at_least, longest + 1):
        shorter = {name: "/".join(own[-count:]) for name, own in parts.items()}
        if len({*shorter.values()}) == len(shorter):
            return shorter
    return {name: name for name in names}
