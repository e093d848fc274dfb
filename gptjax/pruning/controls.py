"""What a ticket is compared with: other masks of its counts, and other weights.

A ticket is the mask that a round chose and the weights that it starts from. Each
control changes one of the two and is trained as the round is.
"""

import functools
from typing import Any

import jax

from gptjax import masks, model, tree
from gptjax.pruning import selection
from gptjax.pruning.criteria import random


def random_like(
    weight_masks: masks.Masks, dense: masks.Masks, key: jax.Array, *, pattern: str
) -> masks.Masks:
    """Masks drawn anew: as many zeros in each layer, in the pattern of the config.

    Args:
      weight_masks: the ticket's.
      dense: masks under which everything survives, placed as the new ones shall be.
      pattern: as in `config.Pruning`; the ticket is taken to obey it.
    """
    alive, sizes = masks.survivors(weight_masks), masks.layer_sizes(weight_masks)
    return selection.select(
        random.scores(dense, key),
        dense,
        pattern=pattern,
        scope="layer",
        # Times the size it is rounded to the very count again.
        sparsities={path: 1 - alive[path] / sizes[path] for path in sizes},
    )


def shuffled(weight_masks: masks.Masks, key: jax.Array) -> masks.Masks:
    """The ticket's masks, with the entries of each layer of each leaf permuted.

    Tells whether a ticket is more than its counts: Frankle et al., "Pruning Neural
    Networks at Initialization: Why Are We Missing the Mark?", 2020, arXiv:2009.08576.
    Every layer keeps its number of zeros and nothing else: an N:M pattern, tiles and
    the counts of rows are gone, where `random_like` draws masks that have the pattern.
    Unstructured, the two are drawn from the same distribution.

    Returns:
      Masks sharded as `weight_masks`.
    """
    flat = tree.flatten(weight_masks)
    prunable = {path: mask for path, mask in flat.items() if masks.is_prunable(mask)}
    places = tuple((path, mask.sharding) for path, mask in prunable.items())
    return tree.unflatten({**flat, **_shuffler(places)(prunable, key)})


def reinitialised(config: model.Config, key: jax.Array, places: Any) -> Any:
    """Fresh params, for the ticket's mask without the weights that it was found in.

    Args:
      places: a tree like params of shardings.
    """
    make = functools.partial(model.init, config=config)
    return jax.jit(make, out_shardings=places)(key)


@functools.cache
def _shuffler(places):
    """The jitted permutation, whose masks come out sharded as they went in."""

    def shuffle_leaf(path, mask, key):
        layers = masks.by_layer(path, mask)
        layers = layers.reshape(layers.shape[0], -1)
        keys = jax.random.split(key, len(layers))
        # One layer at a time: a permutation sorts as many numbers as it has entries.
        mixed = jax.lax.map(lambda pair: jax.random.permutation(*pair), (keys, layers))
        return mixed.reshape(mask.shape)

    def shuffle(prunable, key):
        keys = jax.random.split(key, len(prunable))
        return {
            path: shuffle_leaf(path, prunable[path], keys[place])
            for place, path in enumerate(sorted(prunable))
        }

    return jax.jit(shuffle, out_shardings=dict(places))
