"""Prunes one block: statistics of its inputs, then kernel after kernel."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gptjax import masks, sharding, tree
from gptjax.pruning import matrices, selection
from gptjax.pruning.calibration import activations, norms, reconstruction
from gptjax.pruning.calibration.method import BLOCKS, Method, name_of
from gptjax.pruning.calibration.packed import PackedMasks
from gptjax.pruning.criteria import sparsegpt, wanda

_MOMENTS = {"wanda": activations.squares, "sparsegpt": activations.products}


def prune(
    block: Any,
    layer: int,
    *,
    method: Method,
    current: PackedMasks,
    inputs: activations.Stream,
    targets: activations.Stream | None,
) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """A block pruned, and reconstructed if the method says so.

    Args:
      block: its weights, which stay as they are.
      current: the masks so far.
      inputs: what the pruned blocks before it give.
      targets: what the dense model's block gives, for a reconstruction.

    Returns:
      The new block; the bits of its masks by slash path; and its report: the layer,
      and the errors of the reconstruction.
    """
    flat = tree.flatten(block)
    paths = [path for path in current.shapes if masks.is_stacked(path)]
    statistics = {}
    if method.criterion is not None:
        names = [name_of(path) for path in paths]
        moment = _MOMENTS[method.criterion]
        statistics = inputs.moments(block, layer, names, moment)
    survives: masks.Masks = dict.fromkeys(flat, np.True_)
    for path in paths:
        name = name_of(path)
        leaf, mask = flat[name], current.layer(path, layer)
        if method.criterion == "sparsegpt":
            sparsity = _sparsity(method, path, layer)
            flat[name], mask = _by_sparsegpt(
                path, leaf, mask, statistics.pop(name), method, sparsity
            )
        else:
            mask = sharding.place(mask, leaf.sharding)
            if method.criterion == "wanda":
                norm = norms.from_mean_squares(statistics[name], inputs.tokens)
                mask = _by_wanda(path, leaf, mask, norm, method, layer)
            flat[name] = masks.apply(leaf, mask)
        survives[name] = mask
    block = tree.unflatten(flat)
    report: dict[str, Any] = {"layer": layer}
    if method.reconstruction is not None:
        assert targets is not None
        block, figures = reconstruction.reconstruct(
            method.reconstruction,
            block,
            tree.unflatten(survives),
            layer,
            inputs=inputs,
            targets=targets,
        )
        report |= figures
    bits = {p: np.packbits(sharding.to_host(survives[name_of(p)])) for p in paths}
    return block, bits, report


def restored(block: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    """`block` with the leaves that a finished one had, placed as they are."""
    flat = tree.flatten(block)
    for path, leaf in leaves.items():
        name = name_of(path)
        flat[name] = sharding.place(leaf, flat[name].sharding)
    return tree.unflatten(flat)


def changed(block: Any, method: Method, current: PackedMasks) -> dict[str, jax.Array]:
    """The leaves of a pruned block that the method may have changed, by slash path."""
    flat = {BLOCKS + name: leaf for name, leaf in tree.flatten(block).items()}
    if method.reconstruction is not None:
        return flat
    return {path: leaf for path, leaf in flat.items() if path in current.shapes}


def _sparsity(method: Method, path: str, layer: int) -> float | None:
    if method.sparsities is None:
        return None
    return float(method.sparsities[path][layer])


def _by_sparsegpt(path, leaf, mask, hessian, method, sparsity):
    """A kernel and its mask after SparseGPT, shaped and placed as the kernel is."""
    _, inputs, outputs = matrices.shape(path, (1, *leaf.shape))
    weights, alive = sparsegpt.prune(
        leaf.reshape(inputs, outputs),
        sharding.place(mask, leaf.sharding).reshape(inputs, outputs),
        hessian,
        pattern=method.pattern,
        sparsity=sparsity,
        mesh=leaf.sharding.mesh,
        path=f"{path} layer",
    )
    return jax.device_put(
        (weights.reshape(leaf.shape), alive.reshape(leaf.shape)), leaf.sharding
    )


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
