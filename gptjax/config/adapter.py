"""A low-rank adapter, trained in place of the model's own weights."""

from typing import Annotated

import pydantic

from gptjax.config.base import Positive, Section


class Adapter(Section):
    """LoRA (Hu et al., arXiv:2106.09685): what is added to frozen weights is a product
    of two thin matrices. What is 0 in the model stays 0.
    """

    rank: Positive = 8
    """How thin they are."""
    alpha: Annotated[float, pydantic.Field(gt=0)] = 16.0
    """Their product is multiplied by alpha / rank."""
    weights: tuple[tuple[str, bool], ...] = (
        (r"blocks/attn/qkv/kernel", True),
        (r".*", False),
    )
    """Rules (regex of a leaf's slash path, has an adapter), first match wins; of
    kernels of the blocks. All other weights are frozen, but a classifier learns."""
