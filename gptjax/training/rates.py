"""Learning rates as an argument of the programs that learn by them."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np


class Rates:
    """A schedule's learning rates, one for each step; the last one holds on.

    A number in a program is a part of it: with another learning rate it would compile
    anew. So a program takes `table` as an argument, and hands it to `given` while it is
    traced; optimizers that were made with these rates look them up there.
    """

    def __init__(self, schedule: Callable[[jax.Array], jax.Array], *, steps: int):
        """Reads a schedule out.

        Args:
          schedule: the rate by the number of steps before it, for arrays of them.
          steps: after how many it no longer changes.
        """
        found = np.asarray(schedule(jnp.arange(steps + 1)), np.float32)
        self.table = np.broadcast_to(found, (steps + 1,))
        self._given: jax.Array | None = None

    def __call__(self, count: jax.Array) -> jax.Array:
        """The rate after `count` steps."""
        table = jnp.asarray(self.table) if self._given is None else self._given
        return table[jnp.minimum(count, len(self.table) - 1)]

    @contextlib.contextmanager
    def given(self, table: jax.Array) -> Iterator[None]:
        """Rates are looked up in `table`, shaped like the own, while it is entered."""
        self._given = table
        try:
            yield
        finally:
            self._given = None
