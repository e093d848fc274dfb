"""How a budget of zeros is spread over layers that are ranked apart.

Each function gives the sparsity of every layer of every prunable leaf; weighted by the
layers' sizes their mean is the sparsity asked for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors, masks, tree
from gptjax.pruning import matrices, ranking


def uniform(weight_masks: masks.Masks, sparsity: float) -> ranking.PerLayer:
    """The same sparsity everywhere.

    Args:
      weight_masks: masks or their shapes, here and below.
    """
    sizes = masks.layer_sizes(weight_masks)
    return {path: np.full(size.shape, sparsity) for path, size in sizes.items()}


def as_global(scores: Any, current: masks.Masks, sparsity: float) -> ranking.PerLayer:
    """What a ranking of all weights together takes from each layer."""
    chosen = ranking.prune_to(scores, current, sparsity=sparsity, scope="global")
    sizes, alive = masks.layer_sizes(chosen), masks.survivors(chosen)
    return {path: 1 - alive[path] / sizes[path] for path in sizes}


def erk(weight_masks: masks.Masks, sparsity: float) -> ranking.PerLayer:
    """Erdos-Renyi: a layer's density is proportional to (in + out) / (in * out).

    Small and narrow layers keep more of their weights. A layer that would be more than
    dense is dense, and the others share what that leaves over. For the fully connected
    layers of a transformer, ERK is ER.

    Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive
    Sparse Connectivity", 2018, arXiv:1707.04780; Evci et al., "Rigging the Lottery:
    Making All Tickets Winners", 2020, arXiv:1911.11134.
    """
    flat = tree.flatten(weight_masks)
    sizes = masks.layer_sizes(weight_masks)
    raw = {}
    for path, size in sizes.items():
        _, inputs, outputs = matrices.shape(path, flat[path].shape)
        raw[path] = np.full(size.shape, (inputs + outputs) / (inputs * outputs))
    budget = (1 - sparsity) * sum(int(size.sum()) for size in sizes.values())
    is_dense = {path: np.zeros(size.shape, bool) for path, size in sizes.items()}
    while True:
        kept_whole = sum(sizes[path][is_dense[path]].sum() for path in sizes)
        unit = sum((raw[path] * sizes[path])[~is_dense[path]].sum() for path in sizes)
        scale = (budget - kept_whole) / unit if unit else 0.0
        over = {path: ~is_dense[path] & (scale * raw[path] > 1) for path in sizes}
        if not any(leaf.any() for leaf in over.values()):
            break
        is_dense = {path: is_dense[path] | over[path] for path in sizes}
    return {
        path: 1 - np.where(is_dense[path], 1.0, scale * raw[path]) for path in sizes
    }


def owl(
    params: Any,
    weight_masks: masks.Masks,
    norms: dict[str, jax.Array],
    sparsity: float,
    *,
    outlier: float,
    spread: float,
) -> ranking.PerLayer:
    """Outlier-weighted: blocks with more outliers among their scores keep more.

    With A_ij = |W_ij| * ||X_j||, D is the share of a block's A above `outlier` times
    their mean. Rescaled over the blocks to [0, 2 * spread] and shifted to the mean
    1 - sparsity, it is the density of all of a block's leaves. Leaves outside the
    blocks get `sparsity`.

    Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for
    Pruning LLMs to High Sparsity", 2023, arXiv:2310.05175.

    Args:
      norms: for each prunable leaf of the blocks the norms (L, inputs) of what enters
        it over the calibration tokens.

    Raises:
      UserError: a spread that would take some block out of [0, 1).
    """
    sparsities = uniform(weight_masks, sparsity)
    flat, flat_masks = tree.flatten(params), tree.flatten(weight_masks)
    blocks = [path for path in sparsities if masks.is_stacked(path)]
    weights = {path: flat[path] for path in blocks}
    alive = {path: flat_masks[path] for path in blocks}
    share = np.asarray(_outlier_share(weights, alive, norms, outlier), np.float64)
    reach = share.max() - share.min()
    if reach == 0:
        return sparsities
    shifted = (share - share.min()) / reach * 2 * spread
    of_blocks = sparsity - (shifted - shifted.mean())
    if of_blocks.min() < 0 or of_blocks.max() >= 1:
        raise errors.UserError(
            f"pruning.owl_spread: {spread} takes layers from sparsity {sparsity:.3f} "
            f"to between {of_blocks.min():.3f} and {of_blocks.max():.3f}; all must lie "
            "in [0, 1)"
        )
    return sparsities | dict.fromkeys(blocks, of_blocks)


@jax.jit
def _outlier_share(weights, alive, norms, outlier) -> jax.Array:
    """The share of outliers among each block's scores, (L,)."""

    def over_block(of_leaf):
        return sum(
            of_leaf(
                jnp.abs(matrices.view(path, weight).astype(jnp.float32))
                * norms[path][..., None],
                matrices.view(path, alive[path]),
            )
            for path, weight in weights.items()
        )

    def add(values, where):
        return jnp.where(where, values, 0).sum((1, 2), dtype=jnp.float32)

    count = over_block(lambda scores, where: add(jnp.ones_like(scores), where))
    limit = outlier * over_block(add) / count
    found = over_block(
        lambda scores, where: add((scores > limit[:, None, None]) * 1.0, where)
    )
    return found / count
