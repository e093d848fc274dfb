"""Quantization-aware training: the loss of rounded kernels."""

import dataclasses

from gptjax import grids, model
from gptjax.training import objectives


@dataclasses.dataclass(frozen=True)
class Rounding(objectives.Through):
    """A task's loss of a model whose blocks' kernels are rounded to a grid."""

    grid: grids.Grid

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen=None):
        """That of the task; gradients pass the rounding as if it were not there."""
        return self.task.loss(
            config,
            model.on_grid(params, self.grid),
            part,
            scale,
            compute=compute,
            dropout_key=dropout_key,
            frozen=frozen,
        )
