"""A model whose blocks' kernels are rounded to an integer grid."""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import config as config_lib
from gptjax import (
    convert,
    data,
    errors,
    evaluation,
    grids,
    masks,
    model,
    models,
    sharding,
    tree,
)
from gptjax.pruning import allocation, blockwise, calibration, matrices

_PRUNABLE = config_lib.Pruning.model_fields["prunable"].default
"""What is rounded, too: the kernels of the blocks."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A model on a grid.

    Attributes:
      model: its weights are what the codes stand for, so that it computes what the
        small folder will. Saved by itself it is an ordinary checkpoint of them, which
        says nothing of activations of 8 bits.
      on_grid: which of them have codes, and their scales.
      zeros_before, zeros_after, weights: of the kernels, how many weights are 0, and
        how many there are. A weight nearer to 0 than to any other code becomes 0.
      how: in what way they were rounded.
      seconds: what that took.
    """

    model: models.Model
    on_grid: grids.OnGrid
    zeros_before: int
    zeros_after: int
    weights: int
    how: str
    seconds: float

    def save(self, folder: str | pathlib.Path, *, dtype: Any = None) -> None:
        """Writes a Hugging Face folder with codes, in the `compressed-tensors` layout.

        Args:
          dtype: of the other weights, embeddings and the like; None: float32.
        """
        params = self.model.params
        if dtype is not None:
            params = tree.map_with_path(
                lambda path, leaf: (
                    leaf if path in self.on_grid.scales else leaf.astype(dtype)
                ),
                params,
            )
        convert.save(
            folder,
            self.model.config,
            params,
            like=self.model.folder,
            on_grid=self.on_grid,
        )


def quantize(
    name: str | pathlib.Path,
    *,
    bits: int = 8,
    group: int | None = None,
    calibration_text: str | pathlib.Path | config_lib.Source | None = None,
    sequences: int = 128,
    context: int | None = None,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    activation_bits: int | None = None,
    batch_sequences: int = 8,
    keep: pathlib.Path | None = None,
    progress: bool = False,
) -> Quantized:
    """A model with kernels of 4 or 8 bits; its zeros stay exactly 0.

    Without a text every weight goes to the nearest code. With one, what rounding does
    to a layer's outputs is made up for by GPTQ (Frantar et al., arXiv:2210.17323), and
    if so wished weights are pruned in the same pass by SparseGPT (arXiv:2301.00774),
    on the same Hessians.

    Args:
      name: a model as `load` takes it.
      bits, group: see `grids.Grid`.
      calibration_text: a file, or any other source.
      sequences: how many windows of it are read, the first ones.
      context: tokens of each; None: n_positions, 2048 at most.
      sparsity: of each layer, in the end; None: nothing is pruned.
      pattern: or `N:M` in place of a sparsity.
      activation_bits: see `model.Config`.
      keep: a folder for the blocks that GPTQ has finished: called again, it goes on
        after the last of them. The caller removes it when it has saved the model.

    Raises:
      UserError: bits or a group that cannot be, a text too short, pruning without one,
        a model whose checkpoint is filled up with zeros, blocks of another model or of
        other settings in `keep`.
    """
    grid = grids.Grid(bits=bits, group=group)
    if calibration_text is None and (sparsity is not None or pattern != "unstructured"):
        raise errors.UserError(
            "sparsity, pattern: to prune in the same pass takes a calibration text"
        )
    if sparsity is not None and not 0 < sparsity < 1:
        raise errors.UserError(f"sparsity: {sparsity}; it lies between 0 and 1")
    if sparsity is not None and pattern != "unstructured":
        raise errors.UserError(f"sparsity: {pattern} says how many go; leave it out")
    if activation_bits is not None and (grid != model.int8.GRID or calibration_text):
        raise errors.UserError(
            "activations: only weights of 8 bits with a scale for each output, rounded "
            "to the nearest, are multiplied by them; leave out bits, group, calibration"
        )
    loaded = models.load(name)
    own = dataclasses.replace(loaded.config, activation_bits=activation_bits)
    loaded = dataclasses.replace(loaded, config=own)
    if convert.is_padded(loaded.config):
        raise errors.UserError(
            f"{name}: its checkpoint is filled up with heads or neurons of zeros; that "
            "does not go with a grid"
        )
    for path, leaf in tree.flatten(loaded.params).items():
        if _is_rounded(path):
            grid.groups(matrices.shape(path, leaf.shape)[1], path)
    before, total = masks.zeros(loaded.params, _PRUNABLE)
    began = time.monotonic()
    if calibration_text is None:
        params, scales = to_the_nearest(loaded.params, grid)
        how = "each to the nearest code"
    else:
        length = evaluation.context_of(loaded.config.n_positions, context)
        source = config_lib.Source.of(calibration_text)
        done = _by_gptq(
            loaded,
            grid,
            source,
            (sequences, length),
            sparsity=sparsity,
            pattern=pattern,
            batch_sequences=batch_sequences,
            keep=keep,
            progress=progress,
        )
        params, scales = done.params, done.scales
        how = f"by GPTQ on the first {sequences} x {length} tokens of {source.name}"
        if resumed := done.report["resumed_blocks"]:
            how += (
                f", {resumed} of {loaded.config.n_layer} blocks by an earlier attempt"
            )
    after, _ = masks.zeros(params, _PRUNABLE)
    return Quantized(
        model=dataclasses.replace(loaded, params=params),
        on_grid=grids.OnGrid(grid, scales),
        zeros_before=before,
        zeros_after=after,
        weights=total,
        how=how,
        seconds=time.monotonic() - began,
    )


def _by_gptq(
    loaded: models.Model,
    grid: grids.Grid,
    source: config_lib.Source,
    windows: tuple[int, int],
    *,
    sparsity: float | None,
    pattern: str,
    batch_sequences: int,
    keep: pathlib.Path | None,
    progress: bool,
) -> blockwise.Done:
    """A model rounded, and perhaps pruned, block by block.

    Args:
      windows: how many, and the tokens of each.
    """
    text = data.tokenize(
        source,
        data.Tokenizer.of(loaded.tokenizer),
        append_eos=False,
        workers=0,
        cache_dir=None,
        vocab_size=loaded.config.vocab_size,
        progress=progress,
    )
    sparsities = None
    if sparsity is not None:
        shapes = masks.shapes(loaded.params, _PRUNABLE)
        sparsities = allocation.uniform(shapes, sparsity)
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    places = sharding.param_shardings(mesh, loaded.params)
    return blockwise.quantize(
        loaded.config,
        # Donated, and `loaded` keeps its own.
        jax.device_put(jax.tree.map(jnp.copy, loaded.params), places),
        calibration.PackedMasks.of(masks.of_zeros(loaded.params, _PRUNABLE)),
        calibration.choose(text, *windows, seed=None),
        grid=grid,
        pattern=pattern,
        sparsities=sparsities,
        mesh=mesh,
        batch_sequences=batch_sequences,
        folder=keep,
        fingerprint=keep and {"weights": convert.digest(loaded.folder)},
        progress=progress,
    )


def _is_rounded(path: str) -> bool:
    return next(own for rule, own in _PRUNABLE if tree.covers(rule, path))


def to_the_nearest(params: Any, grid: grids.Grid) -> tuple[Any, dict[str, Any]]:
    """Params whose kernels are rounded, each weight to the nearest code; the scales."""
    flat, scales = tree.flatten(params), {}
    for path, leaf in flat.items():
        if _is_rounded(path):
            flat[path], own = _rounded(matrices.view(path, leaf), grid)
            flat[path] = flat[path].reshape(leaf.shape)
            scales[path] = jax.device_get(own)
    return tree.unflatten(flat), scales


def _rounded(weights_LIO: jax.Array, grid: grids.Grid) -> tuple[jax.Array, jax.Array]:
    scales = grids.scales_of(weights_LIO, grid)
    return grids.rounded(weights_LIO, scales, grid), scales
