"""Prunes a model block by block, each on what the pruned blocks before it give."""

import dataclasses
import functools
import pathlib
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gptjax import config as config_lib
from gptjax import grids, masks, model, sharding, tree
from gptjax.pruning import matrices
from gptjax.pruning.calibration import (
    activations,
    finished,
    memory,
    one_block,
    stacked,
)
from gptjax.pruning.calibration.method import Method
from gptjax.pruning.calibration.packed import PackedMasks


def prune(
    config: model.Config,
    params: Any,
    current: masks.Masks | PackedMasks,
    tokens_NT: np.ndarray,
    *,
    mesh: Mesh,
    criterion: str | None,
    pattern: str = "unstructured",
    scope: str = "layer",
    sparsities: Mapping[str, np.ndarray] | None = None,
    reconstruction: config_lib.Reconstruction | None = None,
    batch_sequences: int,
    folder: pathlib.Path | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    dtype: Any = jnp.float32,
    progress: bool = False,
) -> tuple[Any, masks.Masks | PackedMasks, dict[str, Any]]:
    """A pruned model, its masks and a report, in little more memory than the model's.

    For each block in turn: what enters its kernels is summed up while its own weights
    are still dense but those before it are pruned; it is pruned, and reconstructed if
    so wished; then its outputs replace its inputs.

    Args:
      params: float32 weights placed on the mesh; donated.
      current: the masks so far; what is pruned stays pruned. Packed, they take an
        eighth of the memory.
      tokens_NT: sequences, as `calibration.cut` gives.
      criterion, pattern, scope, sparsities, reconstruction: see `Method`.
      batch_sequences: how many pass through a block at once.
      folder: where finished blocks are kept, until the caller removes it with
        `calibration.forget`. Begun again with the same arguments, the work goes on
        after the last of them, and ends with the same bits. None: nothing is kept.
      fingerprint: what else the result depends on (where the weights come from, say),
        for the folder to compare; JSON values.
      dtype: of the forward computation; sums and solving are float32.
      progress: whether to say on stderr how much memory it takes, and draw a bar.

    Returns:
      params, 0 where pruned; masks as they were given; and a report: `seconds`,
      `estimated_bytes`, `resumed_blocks`, how many were done already, and `blocks`, a
      dict for each, with the errors of its reconstruction if any.

    Raises:
      UserError: a prunable leaf whose inputs are not watched, a pattern that does not
        divide one, masks of another model, sequences that the model cannot read, a
        folder of other settings, scores or Hessians that are not finite.
    """
    method = Method(
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        sparsities=sparsities,
        reconstruction=reconstruction,
    )
    packed = current if isinstance(current, PackedMasks) else PackedMasks.of(current)
    done = _run(
        config,
        params,
        packed,
        tokens_NT,
        method,
        mesh=mesh,
        batch_sequences=batch_sequences,
        folder=folder,
        fingerprint=fingerprint,
        dtype=dtype,
        progress=progress,
    )
    if isinstance(current, PackedMasks):
        return done.params, done.masks, done.report
    return done.params, done.masks.tree(done.params), done.report


def quantize(
    config: model.Config,
    params: Any,
    current: PackedMasks,
    tokens_NT: np.ndarray,
    *,
    grid: grids.Grid,
    pattern: str = "unstructured",
    sparsities: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> "Done":
    """A model on a grid: as `prune` by SparseGPT, but what survives is rounded.

    Args:
      params, current, tokens_NT: as for `prune`.
      grid: what weights are rounded to.
      pattern, sparsities: of what is pruned in the same pass; neither: nothing is, and
        what is 0 already stays 0.
      options: `mesh` and those after it of `prune`.

    Raises:
      UserError: as `prune` does; a group that does not divide the inputs of a kernel.
    """
    if sparsities is None and pattern == "unstructured":
        sparsities = current.sparsities()
    method = Method(
        criterion="sparsegpt", pattern=pattern, sparsities=sparsities, grid=grid
    )
    for path, shape in current.shapes.items():
        grid.groups(matrices.shape(path, shape)[1], path)
    return _run(config, params, current, tokens_NT, method, **options)


class Done(NamedTuple):
    """A model that was pruned or quantized block by block."""

    params: Any
    masks: PackedMasks
    scales: dict[str, np.ndarray]
    """Slash path -> (L, groups, outputs), of a grid's kernels."""
    report: dict[str, Any]
    """See `prune`."""


def _run(
    config,
    params,
    packed,
    tokens_NT,
    method,
    *,
    mesh,
    batch_sequences,
    folder=None,
    fingerprint=None,
    dtype=jnp.float32,
    progress=False,
) -> Done:
    began = time.monotonic()
    activations.check(config, tokens_NT)
    packed.check(params)
    method.check(packed)
    expected = memory.estimate(
        config,
        params,
        packed.shapes,
        sequences=tokens_NT.shape[0],
        sequence_tokens=tokens_NT.shape[1],
        batch_sequences=batch_sequences,
        criterion=method.criterion,
        reconstructs=method.reconstruction is not None,
        dtype=dtype,
    )
    layers: Iterable[int] = range(config.n_layer)
    if progress:
        expected.tell()
        layers = _with_bar(layers)
    store = None
    if folder is not None:
        settings = {
            "model": dataclasses.asdict(config),
            "masks": packed.checksum(),
            "sequences": list(tokens_NT.shape),
            "tokens": zlib.crc32(np.ascontiguousarray(tokens_NT, np.int32)),
            "batch_sequences": batch_sequences,
            "dtype": jnp.dtype(dtype).name,
            **method.settings(),
        }
        store = finished.Finished(folder, {**settings, **(fingerprint or {})})

    embed = functools.partial(
        activations.Stream,
        activations.How(config, dtype, mesh),
        tokens_NT=tokens_NT,
        batch_sequences=batch_sequences,
    )
    dense = None if method.reconstruction is None else embed(params)
    params = _masked_outside_blocks(params, packed)
    pruned = embed(params)
    prune_block = functools.partial(
        one_block.prune, method=method, current=packed, inputs=pruned, targets=dense
    )
    resumed = 0
    stack, reports = stacked.Stack(params.pop("blocks"), mesh), []
    bits, scales = {}, {}
    for layer in layers:
        if dense is not None:
            dense.advance(stack.block(layer), layer)
        if store is not None and store.has(layer):
            resumed += 1
            leaves, block_report = store.load(layer)
            one_block.restore(stack, layer, leaves)
            del leaves
        else:
            block = prune_block(stack, layer)
            block_report = block.report
            if store is None:
                bits |= block.bits
                scales |= block.scales
            else:
                leaves = one_block.changed(stack, layer, method, packed)
                store.save(layer, leaves, *block)
                del leaves
        pruned.advance(stack.block(layer), layer)
        reports.append(block_report)
    if store is not None:
        # Only now: until all is done they need no memory.
        for layer in range(config.n_layer):
            bits |= store.bits(layer)
            scales |= store.scales(layer)
    params, packed = {**params, "blocks": stack.tree()}, packed.replaced(bits)
    report = {
        "seconds": time.monotonic() - began,
        "estimated_bytes": expected.total,
        "resumed_blocks": resumed,
        "blocks": reports,
    }
    stacked_scales = {
        path: np.stack([scales[path, layer] for layer in range(config.n_layer)])
        for path, layer in scales
        if layer == 0
    }
    return Done(params, packed, stacked_scales, report)


def _masked_outside_blocks(params: Any, current: PackedMasks) -> Any:
    """`params` with the masks so far applied to all that is not in a block."""
    flat = tree.flatten(params)
    for path in current.shapes:
        if not masks.is_stacked(path):
            mask = sharding.place(current.layer(path, 0), flat[path].sharding)
            flat[path] = masks.apply(flat[path], mask)
    return tree.unflatten(flat)


def _with_bar(layers: Iterable[int]) -> Iterable[int]:
    """The layers, with a progress bar on the stderr of the first process."""
    import rich.console
    import rich.progress

    return rich.progress.track(
        list(layers),
        "calibrating block by block",
        console=rich.console.Console(stderr=True),
        disable=jax.process_index() > 0,
    )
