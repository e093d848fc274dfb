"""What may be chosen, where the same is said in commands, in Python and in the work."""

from typing import Literal

Zeros = Literal["all", "any", "first"]
"""Where a mean of models is 0: where all of them are, where any is, or where the first
one is."""
