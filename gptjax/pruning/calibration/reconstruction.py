"""Trains a pruned block until it gives what the dense model's block gave."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax import config, masks
from gptjax.pruning.calibration import activations


def reconstruct(
    settings: config.Reconstruction,
    block: Any,
    block_masks: masks.Masks,
    layer: int,
    *,
    inputs: activations.Stream,
    targets: activations.Stream,
) -> tuple[Any, dict[str, float]]:
    """A pruned block with its surviving weights, biases and norms trained by Adam.

    Its inputs are those that the pruned blocks before it give; what it is to give is
    the output of the same block of the dense model, whose inputs no pruning has
    touched: so a block also mends what those before it could not.

    Guo et al., "EBFT: Effective and Block-Wise Fine-Tuning for Sparse LLMs", 2024,
    arXiv:2402.12419.

    Args:
      block: one block's float32 weights, 0 where pruned.
      block_masks: like `block`; pruned weights stay 0.
      inputs: the stream before this block.
      targets: the dense model's, after this block.

    Returns:
      The trained block, or `block` where training did not help; and the mean squared
      errors over the calibration tokens, `error_before` and `error_after`.
    """
    how, optimizer = inputs.how, _optimizer(settings.learning_rate)
    batches = [
        (x_BTD, target_BTD, is_real_B)
        for (x_BTD, is_real_B), (target_BTD, _) in zip(
            inputs.batches, targets.batches, strict=True
        )
    ]

    def error(block) -> float:
        sums = [_squared_error(how, block, layer, *batch)[0] for batch in batches]
        width = how.config.n_embd
        return float(np.sum([np.asarray(s) for s in sums], dtype=np.float64)) / (
            inputs.tokens * width
        )

    before = error(block)
    trained, opt_state = block, _start(optimizer, block)
    for _ in range(settings.epochs):
        for batch in batches:
            trained, opt_state = _step(
                how, optimizer, trained, opt_state, block_masks, layer, *batch
            )
            jax.block_until_ready(trained)
    after = error(trained)
    if not after < before:
        trained, after = block, before
    return trained, {"error_before": before, "error_after": after}


@functools.cache
def _optimizer(learning_rate: float) -> optax.GradientTransformationExtraArgs:
    # Cached, since compiled steps know their optimizer by identity.
    return optax.chain(
        masks.freeze_pruned(), optax.adam(learning_rate), masks.freeze_pruned()
    )


@functools.partial(jax.jit, static_argnums=0)
def _start(optimizer, block):
    return optimizer.init(block)


@functools.partial(jax.jit, static_argnums=0)
def _squared_error(how, block, layer, x_BTD, target_BTD, is_real_B):
    """The sum over real sequences of squared differences, and their number."""
    x_BTD, _ = how.run_block(block, x_BTD, layer)
    off_BTD = x_BTD.astype(jnp.float32) - target_BTD.astype(jnp.float32)
    off_BTD = jnp.where(is_real_B[:, None, None], off_BTD, 0.0)
    real = is_real_B.sum() * (off_BTD.shape[1] * off_BTD.shape[2])
    return jnp.sum(off_BTD**2), real


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _step(
    how, optimizer, block, opt_state, block_masks, layer, x_BTD, target_BTD, is_real_B
):
    def mean_squared_error(block):
        total, real = _squared_error(how, block, layer, x_BTD, target_BTD, is_real_B)
        return total / real

    gradients = jax.grad(mean_squared_error)(block)
    updates, opt_state = optimizer.update(
        gradients, opt_state, block, masks=block_masks
    )
    return optax.apply_updates(block, updates), opt_state
