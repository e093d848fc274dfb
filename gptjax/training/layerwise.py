"""Layers that learn at rates of their own: slower below, or not yet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax import tree

# Regex of a leaf's slash path, and where it lies: below all blocks, above them, or in
# the blocks themselves. A tied output layer lies below, where it is stored.
PLACES: tree.Rules = (
    (r"embed/.*", "below"),
    (r"blocks/.*", "block"),
    (r"(ln_f|head|classifiers|taggers)/.*", "above"),
)


class LayerwiseState(NamedTuple):
    """State of `scale_layers`.

    Attributes:
      count: how many updates there were, int32.
    """

    count: jax.Array


def scale_layers(
    params: Any, *, decay: float, unfreeze_every_steps: int
) -> optax.GradientTransformation:
    """Scales the updates of each layer by its height.

    With L blocks, the embeddings lie at height 0, block l at l + 1, what comes after
    the blocks at L + 1. An update at height h is multiplied by decay^(L + 1 - h). With
    unfreezing, all but the top is held at first, and every so many steps one more
    height learns. Belongs after the optimizer: its moments see every gradient.

    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
    2018, arXiv:1801.06146, sections 3.2 and 3.3; the decay for each layer, Sun et al.,
    "How to Fine-Tune BERT for Text Classification?", 2019, arXiv:1905.05583.

    Args:
      params: a tree of arrays or shapes.
      decay: 1: all alike.
      unfreeze_every_steps: 0: all learn from the first step.
    """
    flat = tree.flatten(params)
    present = [rule for rule in PLACES if any(tree.covers(rule[0], p) for p in flat)]
    places = tree.match(present, flat, table="layers")
    layers = next(leaf.shape[0] for p, leaf in flat.items() if places[p] == "block")
    depths = {
        # How far below the top: of a block's leaf, for every layer.
        "below": np.array(layers + 1),
        "block": layers - np.arange(layers),
        "above": np.array(0),
    }

    def init(params):
        del params
        return LayerwiseState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params

        def scaled(path, leaf):
            depth = depths[places[path]]
            factor = jnp.float32(decay) ** depth
            if unfreeze_every_steps:
                learning = state.count // unfreeze_every_steps >= depth
                factor = jnp.where(learning, factor, 0)
            shape = factor.shape + (1,) * (leaf.ndim - factor.ndim)
            return leaf * factor.reshape(shape if factor.ndim else (1,) * leaf.ndim)

        updates = tree.map_with_path(scaled, updates)
        return updates, LayerwiseState(state.count + 1)

    return optax.GradientTransformation(init, update)
