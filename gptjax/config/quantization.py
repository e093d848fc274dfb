"""Training on a grid of integers."""

from typing import Literal

from gptjax.config.base import Positive, Section


class Quantization(Section):
    """Quantization-aware training: the loss sees the blocks' kernels rounded, gradients
    pass through as if they were not (the straight-through estimator; Bengio et al.,
    arXiv:1308.3432; Jacob et al., arXiv:1712.05877), and what a run leaves is rounded.
    """

    bits: Literal[4, 8] = 8
    """Of a weight."""
    group: Positive | None = None
    """How many inputs share a scale; None: all of an output's."""
