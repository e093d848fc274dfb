"""Prunes one block: statistics of its inputs, then kernel after kernel."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gptjax import masks, sharding, tree
from gptjax.pruning import matrices, selection
from gptjax.pruning.calibration import (
    activations,
    memory,
    norms,
    reconstruction,
    stacked,
)
from gptjax.pruning.calibration.method import BLOCKS, Method, name_of
from gptjax.pruning.calibration.packed import PackedMasks
from gptjax.pruning.criteria import sparsegpt, wanda

_MOMENTS = {"wanda": activations.squares, "sparsegpt": activations.products}


class Pruned(NamedTuple):
    """What is known of a block that is done, beside its weights."""

    bits: dict[tuple[str, int], np.ndarray]
    """Of its masks, as `PackedMasks` keeps them."""
    scales: dict[tuple[str, int], np.ndarray]
    """Of its grid, (groups, outputs), where it has one."""
    report: dict[str, Any]
    """The layer, and the errors of its reconstruction."""


def prune(
    stack: stacked.Stack,
    layer: int,
    *,
    method: Method,
    current: PackedMasks,
    inputs: activations.Stream,
    targets: activations.Stream | None,
) -> Pruned:
    """Prunes a block where it lies, and reconstructs it if the method says so.

    Args:
      current: the masks so far.
      inputs: what the pruned blocks before it give.
      targets: what the dense model's block gives, for a reconstruction.
    """
    paths = [path for path in current.shapes if masks.is_stacked(path)]
    statistics = {}
    if method.criterion is not None:
        names = [name_of(path) for path in paths]
        moment = _MOMENTS[method.criterion]
        statistics = inputs.moments(stack.block(layer), layer, names, moment)
    bits, scales = {}, {}
    for path in paths:
        memory.give_back()
        name = name_of(path)
        leaf, mask = stack.leaf(name, layer), current.layer(path, layer)
        if method.criterion == "sparsegpt":
            leaf, mask, own = _by_sparsegpt(
                path, leaf, mask, statistics.pop(name), method, layer
            )
            if own is not None:
                scales[path, layer] = sharding.to_host(own)
        else:
            mask = sharding.place(mask, leaf.sharding)
            if method.criterion == "wanda":
                norm = norms.from_mean_squares(statistics[name], inputs.tokens)
                mask = _by_wanda(path, leaf, mask, norm, method, layer)
            leaf = masks.apply(leaf, mask)
        stack.put(layer, {name: leaf})
        bits[path, layer] = np.packbits(sharding.to_host(mask))
        del leaf, mask
    memory.give_back()
    report: dict[str, Any] = {"layer": layer}
    if method.reconstruction is not None:
        assert targets is not None
        block = stack.block(layer)
        block, figures = reconstruction.reconstruct(
            method.reconstruction,
            block,
            _masks(block, layer, current.replaced(bits)),
            layer,
            inputs=inputs,
            targets=targets,
        )
        stack.put(layer, tree.flatten(block))
        report |= figures
    return Pruned(bits, scales, report)


def _masks(block: Any, layer: int, packed: PackedMasks) -> masks.Masks:
    """The masks of a block, as a tree like it."""

    def of_leaf(name, leaf):
        if BLOCKS + name not in packed.shapes:
            return np.True_
        return sharding.place(packed.layer(BLOCKS + name, layer), leaf.sharding)

    return tree.map_with_path(of_leaf, block)


def changed(
    stack: stacked.Stack, layer: int, method: Method, current: PackedMasks
) -> dict[str, jax.Array]:
    """The leaves of a pruned block that the method may have changed."""
    flat = tree.flatten(stack.block(layer))
    if method.reconstruction is not None:
        return flat
    return {
        name: leaf for name, leaf in flat.items() if BLOCKS + name in current.shapes
    }


def restore(stack: stacked.Stack, layer: int, leaves: Mapping[str, np.ndarray]) -> None:
    """Puts the leaves of a finished block where they were."""
    for name, leaf in leaves.items():
        place = stack.leaf(name, layer).sharding
        stack.put(layer, {name: sharding.place(leaf, place)})


def _by_sparsegpt(path, leaf, mask, hessian, method, layer):
    """A kernel and its mask after SparseGPT, shaped and placed as the kernel is; and
    the scales of its grid, if there is one."""
    _, inputs, outputs = matrices.shape(path, (1, *leaf.shape))
    weights, alive, scales = sparsegpt.prune(
        leaf.reshape(inputs, outputs),
        sharding.place(mask, leaf.sharding).reshape(inputs, outputs),
        hessian,
        pattern=method.pattern,
        sparsity=None
        if method.sparsities is None
        else float(method.sparsities[path][layer]),
        grid=method.grid,
        mesh=leaf.sharding.mesh,
        path=f"{path} layer {layer}",
    )
    shaped = weights.reshape(leaf.shape), alive.reshape(leaf.shape)
    return *jax.device_put(shaped, leaf.sharding), scales


def _by_wanda(path, leaf, mask, norm, method, layer):
    """A kernel's mask by Wanda."""
    place = NamedSharding(leaf.sharding.mesh, PartitionSpec(None, *leaf.sharding.spec))

    def stacked(array):
        return tree.unflatten({path: jax.device_put(jnp.expand_dims(array, 0), place)})

    sparsities = None
    if method.sparsities is not None:
        sparsities = {path: np.asarray(method.sparsities[path])[layer : layer + 1]}
    new = selection.select(
        wanda.scores(stacked(leaf), {path: norm[None]}),
        stacked(mask),
        pattern=method.pattern,
        scope=method.scope,
        sparsities=sparsities,
    )
    return jax.device_put(tree.flatten(new)[path][0], leaf.sharding)
