"""One model out of several of the same shape: the mean of their weights.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time", 2022, arXiv:2203.05482; between a student
and its parent, Wortsman et al., "Robust fine-tuning of zero-shot models", 2022,
arXiv:2109.01903.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import choices, errors, evaluation


def average(
    loads: Sequence[Callable[[], Any]],
    weights: Sequence[float] | None = None,
    *,
    zeros: choices.Zeros = "all",
) -> Any:
    """The weighted mean of models' params, in the first one's dtypes.

    Holds the mean and one model at a time. `zeros: any` keeps what every model has
    pruned out of the mean (their masks intersected), `first` the first model's mask.

    Args:
      loads: each gives a model's params, of the same shapes.
      weights: one for each, to be divided by their sum; None: all alike. They may be
        negative, their sum may not.

    Raises:
      UserError: fewer than two models, other weights than models, weights whose sum is
        not positive, other shapes.
    """
    if len(loads) < 2:
        raise errors.UserError(f"{len(loads)} model; a mean takes two or more")
    weights = [1.0] * len(loads) if weights is None else list(weights)
    if len(weights) != len(loads):
        raise errors.UserError(
            f"--weight: {len(weights)} for {len(loads)} models; give one for each"
        )
    if not (math.isfinite(sum(weights)) and sum(weights) > 0):
        told = ", ".join(f"{weight:g}" for weight in weights)
        raise errors.UserError(f"--weight: {told}; their sum must be positive")
    shares = [weight / sum(weights) for weight in weights]
    first = loads[0]()
    like = jax.eval_shape(lambda params: params, first)
    alive = jax.tree.map(lambda leaf: leaf != 0, first) if zeros != "all" else None
    total = _scaled(first, shares[0])
    del first
    for load, share in zip(loads[1:], shares[1:], strict=True):
        params = load()
        evaluation.check_alike(like, params)
        if zeros == "any":
            alive = jax.tree.map(lambda mask, leaf: mask & (leaf != 0), alive, params)
        total = jax.tree.map(jnp.add, total, _scaled(params, share))
    if alive is not None:
        total = jax.tree.map(lambda mask, leaf: jnp.where(mask, leaf, 0), alive, total)
    return jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), total, like)


def _scaled(params: Any, share: float) -> Any:
    return jax.tree.map(lambda leaf: share * leaf.astype(jnp.float32), params)


def zeros_text(params: Any) -> str:
    """How many weights of all are 0, in words."""
    leaves = jax.tree.leaves(params)
    zeros, total = sum(int((x == 0).sum()) for x in leaves), sum(x.size for x in leaves)
    return f"{zeros:,} of {total:,} weights are 0 ({zeros / total:.1%})"
