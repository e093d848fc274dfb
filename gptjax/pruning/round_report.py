"""The figures of one round, as they stand in its `report.json`."""

import json
import math
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from gptjax import files, masks, model, sharding, tree

BYTES_PER_WEIGHT = 4
"""Of a float32 value, dense or packed."""
SAVED = (
    "prunable",
    "zeros",
    "parameters",
    "bytes_dense",
    "bytes_packed",
    "bytes_zipped",
)
"""What of a round's figures the account of savings repeats."""


def name(number: int, control: str | None = None) -> str:
    """What a round, or a control of it, is called in folders, logs and figures."""
    return f"{number:02d}" if control is None else f"{number:02d}-{control}"


def folder(run: pathlib.Path, number: int) -> pathlib.Path:
    """Where a round's masks, report and model lie in a run folder."""
    return run / "rounds" / name(number)


def read(run: pathlib.Path, number: int) -> dict[str, Any] | None:
    """The report of a round that is done; None where it is not."""
    path = folder(run, number) / "report.json"
    if not path.exists():
        return None
    _forget_checkpoints(run, number)  # it may have been killed before it could
    return json.loads(path.read_text(encoding="utf-8"))


def write(run: pathlib.Path, report: dict[str, Any]) -> None:
    """Makes a round done: its model lies in its folder by now, its report is written.

    Returns when every process may read it.
    """
    number = report["round"]
    if jax.process_index() == 0:
        files.write_json(folder(run, number) / "report.json", report)
    _forget_checkpoints(run, number)
    sharding.sync(f"round {name(number)}")


def _forget_checkpoints(run: pathlib.Path, number: int) -> None:
    """Removes what lies there for resuming the round and its controls."""
    if jax.process_index() == 0:
        for pattern in (name(number), name(number, "*")):
            for phase in (run / "checkpoints").glob(pattern):
                shutil.rmtree(phase)


def sizes(params_shapes: Any, weight_masks: masks.Masks) -> dict[str, Any]:
    """Sparsity and bytes of a model under masks.

    Args:
      params_shapes: a tree of arrays or shapes.

    Returns:
      sparsity: fraction of the prunable weights that are pruned.
      model_sparsity: of all weights.
      sparsity_per_layer, zeros_per_layer: slash path -> a fraction, and a count, for
        each layer.
      prunable, zeros, parameters: counts of weights.
      bytes_dense: every weight as float32.
      bytes_packed: what a bit mask of the prunable weights and the float32 values
        that are left would take; weights that cannot be pruned count in full.
    """
    alive = masks.survivors(weight_masks)
    total = masks.layer_sizes(weight_masks)
    prunable = sum(int(size.sum()) for size in total.values())
    zeros = prunable - sum(int(count.sum()) for count in alive.values())
    parameters = sum(math.prod(s.shape) for s in tree.flatten(params_shapes).values())
    mask_bytes = sum(-(-int(size.sum()) // 8) for size in total.values())
    return {
        "sparsity": zeros / prunable if prunable else 0.0,
        "model_sparsity": zeros / parameters,
        "sparsity_per_layer": {
            path: np.round(1 - alive[path] / total[path], 6).tolist() for path in total
        },
        "zeros_per_layer": {p: (total[p] - alive[p]).tolist() for p in total},
        "prunable": prunable,
        "zeros": zeros,
        "parameters": parameters,
        "bytes_dense": BYTES_PER_WEIGHT * parameters,
        "bytes_packed": BYTES_PER_WEIGHT * (parameters - zeros)
        + (mask_bytes if zeros else 0),
    }


def shape(config: model.Config) -> dict[str, int]:
    """What removal changes of a model, and the number of its weights."""
    leaves = tree.flatten(model.shapes(config)).values()
    return {
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": config.n_head,
        "head_width": config.head_width,
        "neurons": config.mlp_width,
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
    }
