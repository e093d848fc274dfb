"""How a budget of zeros is spread over layers that are ranked apart.

Each function gives the sparsity of every layer of every prunable leaf; weighted by the
layers' sizes their mean is the sparsity asked for.
"""

from collections.abc import Mapping
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
    return {path: 1 - kept for path, kept in _densities(raw, sizes, sparsity).items()}


def weighted(
    weight_masks: masks.Masks, sparsity: float, weights: Mapping[str, float]
) -> ranking.PerLayer:
    """By hand: a layer's density is proportional to the weights that name it.

    A layer that would be more than dense is dense, and the others share what that
    leaves over. As many weights of the whole are pruned as a ranking of all together
    would prune, `round(sparsity * n)`: what is left of rounding each layer down goes to
    those that were rounded most.

    Args:
      weights: as `config.Pruning.density_weights`; those that name a layer are
        multiplied, and where none does it is 1.

    Raises:
      UserError: a name that fits no layer.
    """
    sizes = masks.layer_sizes(weight_masks)
    raw = {path: np.ones(size.shape) for path, size in sizes.items()}
    for name, weight in weights.items():
        named = {
            path: np.array([_is_named(name, path, n) for n in range(len(size))])
            for path, size in sizes.items()
        }
        if not any(each.any() for each in named.values()):
            kinds = ", ".join(masks.kind(path) for path in sizes)
            layers = max(len(size) for size in sizes.values())
            raise errors.UserError(
                f"pruning.density_weights.{name}: names no prunable layer; the "
                f"blocks are 0 to {layers - 1}, the kinds {kinds}, and both e.g. "
                f"0/{masks.kind(next(iter(sizes)))}"
            )
        for path, is_named in named.items():
            raw[path][is_named] *= weight
    densities = _densities(raw, sizes, sparsity)
    wanted = {path: (1 - densities[path]) * sizes[path] for path in sizes}
    counts = {path: np.floor(count).astype(np.int64) for path, count in wanted.items()}
    total = round(sparsity * sum(int(size.sum()) for size in sizes.values()))
    left = total - sum(int(count.sum()) for count in counts.values())
    layers = [(path, n) for path, count in counts.items() for n in range(len(count))]
    layers.sort(key=lambda at: counts[at[0]][at[1]] - wanted[at[0]][at[1]])
    for path, n in layers[:left]:
        counts[path][n] += 1
    return {path: counts[path] / sizes[path] for path in sizes}


def _is_named(name: str, path: str, layer: int) -> bool:
    """Whether a name, e.g. `3`, `mlp`, `mlp/up` or `3/mlp`, fits a layer of a leaf."""
    first, *rest = parts = name.split("/")
    if first.isdigit():
        if not masks.is_stacked(path) or int(first) != layer:
            return False
        parts = rest
    return masks.kind(path).split("/")[: len(parts)] == parts


def _densities(
    raw: ranking.PerLayer, sizes: ranking.PerLayer, sparsity: float
) -> ranking.PerLayer:
    """Densities proportional to `raw`, 1 at most, that keep 1 - sparsity of all."""
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
    return {path: np.where(is_dense[path], 1.0, scale * raw[path]) for path in sizes}


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
