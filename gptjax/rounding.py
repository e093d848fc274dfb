"""Sizes rounded up, so that a few compiled programs do for all."""


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`; 1 for 0."""
    return 1 << max(size - 1, 0).bit_length()
