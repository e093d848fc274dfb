"""How every block is pruned."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gptjax import config, errors, grids, masks, tree
from gptjax.pruning import selection
from gptjax.pruning.calibration import norms
from gptjax.pruning.calibration.packed import PackedMasks

BLOCKS = "blocks/"
"""What the path of a block's leaf starts with, before its name within the block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How every block is pruned.

    Attributes:
      criterion: `wanda` or `sparsegpt`; None where the masks are given already, and
        are only applied and made up for.
      pattern: as in `config.Pruning`; sparsegpt knows `unstructured` and N:M.
      scope: `layer` or `row`, for wanda without N:M.
      sparsities: slash path -> (L,), the fraction of each layer that is pruned after
        this; not for N:M, nor without a criterion.
      reconstruction: None for none.
      grid: what sparsegpt rounds the survivors to; None: to none.
    """

    criterion: str | None
    pattern: str = "unstructured"
    scope: str = "layer"
    sparsities: Mapping[str, np.ndarray] | None = None
    reconstruction: config.Reconstruction | None = None
    grid: grids.Grid | None = None

    def check(self, current: PackedMasks) -> None:
        """Raises a `UserError` unless every prunable leaf can be pruned this way."""
        if not current.shapes:
            raise errors.UserError("pruning.prunable: the rules leave nothing to prune")
        if self.criterion is None:
            return
        for path in current.shapes:
            if not masks.is_stacked(path) or name_of(path) not in norms.KERNELS:
                raise errors.UserError(
                    f"pruning.prunable: {path} is no kernel of a block, and only what "
                    f"enters those is watched; leave it out for {self.criterion}"
                )
        shapes = {p: jax.ShapeDtypeStruct(s, bool) for p, s in current.shapes.items()}
        selection.check(self.pattern, tree.unflatten(shapes))

    def settings(self) -> dict[str, Any]:
        """All of it in JSON values."""
        sparsities = self.sparsities or {}
        return {
            "criterion": self.criterion,
            "pattern": self.pattern,
            "scope": self.scope,
            "sparsities": {p: np.asarray(s).tolist() for p, s in sparsities.items()},
            "reconstruction": None
            if self.reconstruction is None
            else self.reconstruction.model_dump(mode="json"),
            "grid": None if self.grid is None else dataclasses.asdict(self.grid),
        }


def name_of(path: str) -> str:
    """What a leaf is called within its block."""
    return path.removeprefix(BLOCKS)
