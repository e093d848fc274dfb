"""The masks of a round: scores, budget, pattern; and what choosing them cost."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import files, masks, sharding
from gptjax.pruning import (
    allocation,
    blockwise,
    calibration,
    footprint,
    ranking,
    selection,
    tickets,
)
from gptjax.pruning.context import Context
from gptjax.pruning.criteria import magnitude, random, taylor, wanda
from gptjax.pruning.plan import Round


def choose(context: Context, this: Round) -> masks.Masks:
    """The masks of a round: stored ones if it was begun, else chosen and stored.

    Beside the masks `method.json` says what choosing them cost; and where the method
    changed weights that the round is to train on, `start` holds them.

    Raises:
      UserError: scores that cannot be ranked, a budget that cannot be met.
    """
    pruning, path = context.pruning, context.masks_path(this.number)
    if this.number == 0 or path.exists():
        calibration.forget(_calibration_folder(context, this))
        return context.masks_of(this.number)
    if pruning.schedule == "gradual":
        return context.trainer.dense_masks()  # training prunes them
    params = context.prepared.load_params(context.model_of(this.number - 1))
    _store(context, this, params)
    return context.masks_of(this.number)


def check(context: Context) -> None:
    """Finds before any training what would stop a later round.

    Raises:
      UserError: a pattern that does not fit the model, a calibration text too short,
        weights whose inputs are not watched, masks of another model.
    """
    pruning = context.pruning
    selection.check(pruning.pattern, context.mask_shapes)
    if pruning.spread == "weighted":
        budget_by_sizes(context)(pruning.targets()[-1])
    if pruning.masks_from is not None:
        _ticket(context)
    if _is_calibrated(context):
        _ = context.calibration_tokens
    if pruning.criterion in ("wanda", "sparsegpt") or pruning.spread == "owl":
        shapes, prunable = context.trainer.shapes, context.trainer.prunable
        packed = calibration.PackedMasks.dense(shapes, prunable)
        calibration.Method(criterion="wanda", pattern=pruning.pattern).check(packed)


def scores(context: Context, number: int, params: Any) -> Any:
    """The criterion's scores of all weights, a tree like params.

    Args:
      number: of the round that they are for.
    """
    criterion = context.pruning.criterion
    if criterion == "random":
        return random.scores(params, context.key("criterion", number))
    if criterion == "taylor":
        how = _how_to_read(context)
        calibration.estimate_batches(
            context.trainer.model_config,
            params,
            masks.layer_sizes(context.mask_shapes),
            sequence_tokens=context.calibration_tokens.shape[1],
            batch_sequences=how["batch_sequences"],
            read="weights",
            dtype=how["dtype"],
        ).tell()
        return taylor.scores(
            context.trainer.model_config, params, context.calibration_tokens, **how
        )
    if criterion == "movement":
        folder = context.round_folder(number - 1) / "movement"
        return context.prepared.load_params(folder)
    if criterion == "wanda":
        return wanda.scores(params, _norms(context, params))
    return magnitude.scores(params)


def budget(
    context: Context, this: Round, params: Any, rank: Callable[[], Any]
) -> ranking.PerLayer | float:
    """The sparsity of each layer, or of everything where all is ranked together.

    Args:
      rank: gives the scores; called only if the allocation needs them.
    """
    pruning = context.pruning
    assert this.sparsity is not None
    if pruning.ranked_together == "global":
        return this.sparsity
    if pruning.spread == "global":
        before = context.masks_of(this.number - 1)
        return allocation.as_global(rank(), before, this.sparsity)
    if pruning.spread == "owl":
        return allocation.owl(
            params,
            context.masks_of(this.number - 1),
            _norms(context, params),
            this.sparsity,
            outlier=pruning.owl_outlier,
            spread=pruning.owl_spread,
        )
    return budget_by_sizes(context)(this.sparsity)


def budget_by_sizes(context: Context) -> Callable[[float], ranking.PerLayer | float]:
    """`budget` as a function of the sparsity, where neither weights nor text matter."""
    if context.pruning.ranked_together == "global":
        return lambda sparsity: sparsity
    spread = allocation.erk if context.pruning.spread == "erk" else allocation.uniform
    if context.pruning.spread == "weighted":
        weights = context.pruning.density_weights
        spread = functools.partial(allocation.weighted, weights=weights)
    return lambda sparsity: spread(context.mask_shapes, sparsity)


def _store(context: Context, this: Round, params: Any) -> None:
    """Chooses a round's masks, timed, and writes all that comes of it."""
    folder, pruning = context.round_folder(this.number), context.pruning
    # Over the whole of the model, scores are a tree of their own; block by block they
    # are one block's.
    is_by_blocks = pruning.criterion == "sparsegpt" or (
        pruning.criterion == "wanda" and pruning.ranked_together != "global"
    )
    with footprint.measured() as cost:
        if is_by_blocks:
            packed = _packed_before(context, this)
            sparsities = budget(
                context, this, params, lambda: scores(context, this.number, params)
            )
            found = _block_by_block(
                context, this, params, packed, pruning.criterion, sparsities
            )
        else:
            if pruning.masks_from is not None:
                packed = calibration.PackedMasks.of(_ticket(context))
            else:
                packed = _at_once(context, this, params)
            found = params, packed, {}
            if pruning.reconstruction is not None:
                found = _block_by_block(context, this, params, found[1], None, None)
        params, packed, details = found
        jax.block_until_ready(params)
    if pruning.keeps_new_weights and (
        pruning.criterion == "sparsegpt" or pruning.reconstruction is not None
    ):
        context.export(folder / "start", params)
    if jax.process_index() == 0:
        figures = {**details, **dataclasses.asdict(cost)}
        if details.get("resumed_blocks"):
            # Of the blocks done before the interruption nothing is known.
            figures |= {"seconds": None, "peak_bytes": None}
        files.write_json(folder / "method.json", figures)
    packed.save(context.masks_path(this.number))
    calibration.forget(_calibration_folder(context, this))
    sharding.sync(f"masks {this.name}")


def _at_once(context: Context, this: Round, params: Any) -> calibration.PackedMasks:
    found = scores(context, this.number, params)
    chosen = selection.select(
        found,
        context.masks_of(this.number - 1),
        pattern=context.pruning.pattern,
        scope=context.pruning.ranked_together,
        sparsities=budget(context, this, params, lambda: found),
    )
    return calibration.PackedMasks.of(chosen)


def _packed_before(context: Context, this: Round) -> calibration.PackedMasks:
    """The masks that the round before left, never unpacked where nothing is pruned."""
    if this.number == 1:
        shapes, prunable = context.trainer.shapes, context.trainer.prunable
        return calibration.PackedMasks.dense(shapes, prunable)
    return calibration.PackedMasks.of(context.masks_of(this.number - 1))


def _block_by_block(
    context: Context,
    this: Round,
    params: Any,
    packed: calibration.PackedMasks,
    criterion: str | None,
    sparsities: Any,
) -> tuple[Any, calibration.PackedMasks, dict[str, Any]]:
    pruning = context.pruning
    return blockwise.prune(
        context.trainer.model_config,
        params,
        packed,
        context.calibration_tokens,
        criterion=criterion,
        pattern=pruning.pattern,
        scope=pruning.ranked_together,
        sparsities=sparsities,
        reconstruction=pruning.reconstruction,
        folder=_calibration_folder(context, this),
        fingerprint={"model": str(context.model_of(this.number - 1))},
        progress=context.trainer.is_main,
        **_how_to_read(context),
    )


def _calibration_folder(context: Context, this: Round) -> pathlib.Path:
    """Where finished blocks lie until all of them are."""
    return context.round_folder(this.number) / "calibration"


def _ticket(context: Context) -> masks.Masks:
    """The masks that the config gives."""
    assert context.pruning.masks_from is not None
    return tickets.load(
        context.pruning.masks_from,
        context.trainer.placed_shapes(),
        context.mask_shapes,
    )


def _is_calibrated(context: Context) -> bool:
    pruning = context.pruning
    return (
        pruning.criterion in ("taylor", "wanda", "sparsegpt")
        or pruning.spread == "owl"
        or pruning.reconstruction is not None
    )


def _norms(context: Context, params: Any) -> Any:
    config, tokens_NT = context.trainer.model_config, context.calibration_tokens
    how = _how_to_read(context)
    calibration.estimate_at_once(
        config,
        params,
        masks.layer_sizes(context.mask_shapes),
        sequences=tokens_NT.shape[0],
        sequence_tokens=tokens_NT.shape[1],
        batch_sequences=how["batch_sequences"],
        dtype=how["dtype"],
    ).tell()
    return calibration.input_norms(config, params, tokens_NT, **how)


def _how_to_read(context: Context) -> dict[str, Any]:
    """How the calibration text passes through the model."""
    return {
        "mesh": context.trainer.mesh,
        "batch_sequences": context.prepared.settings.calibration.batch_sequences,
        "dtype": jnp.dtype(context.prepared.settings.training.compute_dtype),
    }
