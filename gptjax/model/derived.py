"""Params that are made of others, a layer at a time."""

from typing import Any

import jax

from gptjax.model import adapted, coded, rounded

_KINDS = (adapted.Adapted, coded.Coded, rounded.Rounded)


def values(block_params: Any) -> Any:
    """One layer's params, with what its adapters, or codes, or a grid, make of them."""
    return jax.tree.map(
        lambda leaf: leaf.value() if isinstance(leaf, _KINDS) else leaf,
        block_params,
        is_leaf=lambda leaf: isinstance(leaf, _KINDS),
    )
