"""First-order Taylor: how much the loss would change without the weight."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import model, sharding
from gptjax.training import loss, step


@jax.jit
def saliency(params: Any, gradients: Any) -> Any:
    """|w dL/dw|, the size of the loss change from setting w to 0, to first order.

    Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection
    Sensitivity", 2018, arXiv:1810.02340, who divide it by its sum. Molchanov et al.,
    "Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771, take
    its square for a single weight. All three rank alike.

    Args:
      gradients: a tree like `params`.

    Returns:
      A tree like `params` of float32 scores.
    """
    return jax.tree.map(
        lambda w, grad: jnp.abs(w.astype(jnp.float32) * grad.astype(jnp.float32)),
        params,
        gradients,
    )


def scores(
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    *,
    mesh: Mesh,
    batch_sequences: int,
    dtype: Any = jnp.float32,
) -> Any:
    """`saliency` by the gradient of the mean loss over calibration sequences.

        s = |w dL/dw|,  L = the mean over all predicted tokens of -log p(token)

    one gradient for all sequences, summed up in float32, without dropout. L is that of
    the text, also where the run learns from a teacher or classifies: what calibration
    reads has no labels, and no scores are kept of it.

    Args:
      params: placed on the mesh; where masks prune a weight it is 0, and its score.
      tokens_NT: on the host, whole in every process.
      batch_sequences: read at once, over all devices.
      dtype: of the computation.

    Returns:
      A tree like `params` of float32 scores, lying as they do.

    Raises:
      UserError: the mesh does not divide a batch.
    """
    sharding.check_batch(mesh, batch_sequences, key="calibration.batch_sequences")
    parts = -(-len(tokens_NT) // batch_sequences)
    missing = parts * batch_sequences - len(tokens_NT)

    def in_parts(array_NT, filler):
        padded = np.pad(array_NT, ((0, missing), (0, 0)), constant_values=filler)
        return padded.reshape(parts, batch_sequences, -1).astype(np.int32)

    batch = {
        "tokens": in_parts(tokens_NT, 0),
        "labels": in_parts(tokens_NT, loss.IGNORED),
    }

    def score(params, batch):
        # Recomputed activations: here memory counts for more than time.
        gradients, _ = step.mean_gradients(
            config.without_dropout(),
            params,
            batch,
            compute=model.Compute(dtype=dtype, mesh=mesh, remat="full"),
        )
        return saliency(params, gradients)

    places = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
    shardings = sharding.param_shardings(mesh, params)
    return jax.jit(score, out_shardings=shardings)(
        params, sharding.place(batch, places)
    )
