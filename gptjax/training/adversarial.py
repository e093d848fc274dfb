"""Gradients of losses where the embeddings of tokens are moved for the worse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import config

Loss = Callable[[Any, jax.Array], jax.Array]
"""Of params, and of a move (B, T, D) of their embeddings of a batch."""


def gradients(
    settings: config.Adversarial,
    loss: Loss,
    params: Any,
    is_read_BT: jax.Array,
    width: int,
    key: jax.Array,
) -> tuple[Any, dict[str, jax.Array]]:
    """What a config's method makes of a loss: gradients by params, and figures.

    Args:
      loss: a sum over sequences, each by its own row of the move alone.
      is_read_BT: which tokens can be moved; padding can't.
      width: D.
      key: of the first move of freelb.

    Returns:
      Gradients; `loss`, by which they are one of `fgm` without a move, and of `freelb`
      the mean over all moves; `adversarial_loss`, that after the last move.
    """
    method = _fgm if settings.method == "fgm" else _freelb
    return method(settings, loss, params, is_read_BT, width, key)


def _fgm(settings, loss, params, is_read_BT, width, key):
    del key
    still_BTD = jnp.zeros((*is_read_BT.shape, width), jnp.float32)
    both = jax.value_and_grad(loss, argnums=(0, 1))
    clean, (own, slope_BTD) = both(params, still_BTD)
    move_BTD = settings.epsilon * _unit(_only(slope_BTD, is_read_BT))
    moved, other = jax.value_and_grad(loss)(params, move_BTD)
    grads = jax.tree.map(jnp.add, own, other)
    return grads, {"loss": clean, "adversarial_loss": moved}


def _freelb(settings, loss, params, is_read_BT, width, key):
    shape = (*is_read_BT.shape, width)
    start_BTD = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    # So that it is at most epsilon long.
    sizes_B = jnp.maximum(is_read_BT.sum(1), 1) * jnp.float32(width)
    start_BTD = settings.epsilon * start_BTD / jnp.sqrt(sizes_B)[:, None, None]
    both = jax.value_and_grad(loss, argnums=(0, 1))

    def move(carry, _):
        move_BTD, total = carry
        value, (grads, slope_BTD) = both(params, move_BTD)
        total = jax.tree.map(lambda x, g: x + g / settings.moves, total, grads)
        step_BTD = settings.move_length * _unit(_only(slope_BTD, is_read_BT))
        return (_within(move_BTD + step_BTD, settings.epsilon), total), value

    zeros = jax.tree.map(jnp.zeros_like, params)
    first = (_only(start_BTD, is_read_BT), zeros)
    (_, grads), losses = jax.lax.scan(move, first, length=settings.moves)
    return grads, {"loss": losses.mean(), "adversarial_loss": losses[-1]}


def _only(x_BTD: jax.Array, is_read_BT: jax.Array) -> jax.Array:
    return jnp.where(is_read_BT[..., None], x_BTD, 0)


def _lengths(x_BTD: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(x_BTD).sum((1, 2), keepdims=True))


def _unit(x_BTD: jax.Array) -> jax.Array:
    """Each sequence's as long as 1, or 0 where it has no direction."""
    lengths_B11 = _lengths(x_BTD)
    return jnp.where(lengths_B11 > 0, x_BTD / jnp.maximum(lengths_B11, 1e-30), 0)


def _within(x_BTD: jax.Array, longest: float) -> jax.Array:
    """Each sequence's shortened to `longest` where it is longer."""
    return x_BTD * jnp.minimum(1, longest / jnp.maximum(_lengths(x_BTD), 1e-30))
