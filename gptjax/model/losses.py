"""The losses of the next token, from what left the last block."""

from typing import NamedTuple

import jax

from gptjax.model import cross_entropy, distilling, gpt
from gptjax.model.compute import Compute
from gptjax.model.config import Config
from gptjax.model.gpt import Params


def token_losses(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    *,
    compute: Compute,
) -> jax.Array:
    """The negative log-likelihood of each target, float32 BT, in nats.

    Args:
      x_BTD: what left the last block.
      targets_BT: token ids below V.
    """
    return token_scores(config, params, x_BTD, targets_BT, compute=compute)[0]


def token_scores(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    *,
    compute: Compute,
) -> tuple[jax.Array, jax.Array]:
    """`token_losses`, and whether no token is likelier than the target, bool BT."""
    outside = gpt.trunk(config, params, compute)
    return cross_entropy.per_token(
        outside.final(x_BTD), outside.head_VE, targets_BT, compute=compute
    )


def total_loss(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    compute: Compute,
) -> jax.Array:
    """The sum of `token_losses`, each times its weight, and cheap to differentiate."""
    outside = gpt.trunk(config, params, compute)
    return cross_entropy.total(
        outside.final(x_BTD), outside.head_VE, targets_BT, weights_BT, compute
    )


class Teaching(NamedTuple):
    """A teacher's part in `distilled_loss`."""

    config: Config
    params: Params
    x_BTD: jax.Array
    """What left its last block, of the same tokens."""
    weights_BT: jax.Array
    """What the divergence of a place counts, float32."""
    temperature: float


def distilled_loss(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    teaching: Teaching,
    *,
    compute: Compute,
) -> jax.Array:
    """`total_loss`, and the student's divergence from a teacher of its vocabulary.

    See `distilling.distilled`.
    """
    outside = gpt.trunk(config, params, compute)
    teacher = gpt.trunk(teaching.config, teaching.params, compute)
    return distilling.distilled(
        outside.final(x_BTD),
        outside.head_VE,
        targets_BT,
        weights_BT,
        distilling.Teacher(
            teacher.final(teaching.x_BTD), teacher.head_VE, teaching.weights_BT
        ),
        teaching.temperature,
        compute,
    )


def recalled_loss(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    remembered: distilling.Remembered,
    *,
    temperature: float,
    compute: Compute,
) -> jax.Array:
    """`total_loss`, and the student's divergence from what is remembered of a teacher.

    See `distilling.recalled`.

    Args:
      temperature: at which the teacher's chances were taken.
    """
    outside = gpt.trunk(config, params, compute)
    return distilling.recalled(
        outside.final(x_BTD),
        outside.head_VE,
        targets_BT,
        weights_BT,
        remembered,
        temperature,
        compute,
    )


def likeliest(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    *,
    count: int,
    temperature: float,
    compute: Compute,
) -> tuple[jax.Array, jax.Array]:
    """The J likeliest next tokens at every place, and the logarithms of their chances.

    Args:
      x_BTD: what left the last block.
      count: J, at most V.
      temperature: what logits are divided by.

    Returns:
      int32 BTJ, the likeliest first, and float32 BTR: J of them and one more, that of
      all other tokens together.
    """
    outside = gpt.trunk(config, params, compute)
    return distilling.likeliest(
        outside.final(x_BTD),
        outside.head_VE,
        count=count,
        temperature=temperature,
        compute=compute,
    )
