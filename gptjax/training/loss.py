"""The language-modelling loss, as a sum and a count."""

import jax
import jax.numpy as jnp
import optax

IGNORED = -100
"""The label of a token that is not to be predicted, as in Hugging Face's models."""


def next_token_loss(
    logits_BTV: jax.Array, labels_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The summed negative log-likelihood of the labels, and how many there were.

    A sum and a count, and not a mean, so that batches split over accumulation steps
    or devices with unequal numbers of labels still add up to the exact mean.

    Args:
      logits_BTV: at place t the scores of the token at t + 1.
      labels_BT: the tokens themselves, not shifted; -100 is not predicted. The first
        of a sequence is never predicted.

    Returns:
      float32 nats, and an int32 count.
    """
    # The labels move and not the logits, which are V times larger.
    targets_BT = jnp.roll(labels_BT, -1, axis=1).at[:, -1].set(IGNORED)
    is_predicted_BT = targets_BT != IGNORED
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(
        logits_BTV, jnp.where(is_predicted_BT, targets_BT, 0)
    )
    total = jnp.where(is_predicted_BT, nll_BT, 0).sum()
    return total, is_predicted_BT.sum()
