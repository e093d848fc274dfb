"""The losses of tokens and of texts, from what leaves the model."""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax import model

IGNORED = -100
"""The label of a token that is not to be predicted, as in Hugging Face's models."""


def next_token_loss(
    config: model.Config,
    params: Any,
    x_BTD: jax.Array,
    labels_BT: jax.Array,
    *,
    compute: model.Compute,
    weight: jax.Array | float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """The summed negative log-likelihood of the labels, and how many there were.

    A sum and a count, and not a mean, so that batches split over accumulation steps
    or devices with unequal numbers of labels still add up to the exact mean.

    Args:
      x_BTD: what left the model's last block.
      labels_BT: the tokens themselves, not shifted; -100 is not predicted. The first
        of a sequence is never predicted.
      weight: what the sum is multiplied by.

    Returns:
      float32 nats, and an int32 count.
    """
    targets_BT, is_predicted_BT = targets(labels_BT)
    total = model.total_loss(
        config,
        params,
        x_BTD,
        targets_BT,
        jnp.where(is_predicted_BT, jnp.float32(weight), 0),
        compute=compute,
    )
    return total, is_predicted_BT.sum()


def targets(labels_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What each place predicts, token ids BT, and whether it counts."""
    # The labels move and not what predicts them, which is larger.
    targets_BT = jnp.roll(labels_BT, -1, axis=1).at[:, -1].set(IGNORED)
    is_predicted_BT = targets_BT != IGNORED
    return jnp.where(is_predicted_BT, targets_BT, 0), is_predicted_BT


def predicted(labels: jax.Array) -> jax.Array:
    """How many of some labels, (..., T), `next_token_loss` counts, int32."""
    return (labels[..., 1:] != IGNORED).sum()


def class_nll(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """The negative log-likelihood of the class of each text or token, float32, in nats.

    Args:
      logits: (..., N).
      classes: (...), numbers of labels; where there is no class, below 0, it is 0.
    """
    is_known = classes >= 0
    places = jnp.where(is_known, classes, 0)
    picked = jnp.take_along_axis(logits, places[..., None], axis=-1)[..., 0]
    return jnp.where(is_known, jax.nn.logsumexp(logits, axis=-1) - picked, 0)
