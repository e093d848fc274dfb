"""Blocks that are done, on disk: where an interrupted calibration goes on."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from gptjax import errors, files, sharding

_SETTINGS = "settings.json"
_REPORT = "report"
_WEIGHTS, _MASKS, _SCALES = "weights", "masks", "scales"


class Finished:
    """A folder of one file a block: its new weights, masks, scales and report.

    All processes see the same folder; the first one writes.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
        """Opens the folder, or begins it.

        Args:
          settings: what the blocks depend on, for JSON.

        Raises:
          UserError: it holds blocks that were pruned with other settings, or what is
            no block and would go with the folder.
        """
        self.folder = folder
        path = folder / _SETTINGS
        settings = json.loads(json.dumps(settings))  # tuples are lists there
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for key in sorted({*before, *settings}):
                if before.get(key) != settings.get(key):
                    raise errors.UserError(
                        f"{folder}: holds blocks pruned with {key} {before.get(key)}, "
                        f"not {settings.get(key)}; remove the folder to start anew"
                    )
        elif folder.exists() and any(p.suffix != ".part" for p in folder.iterdir()):
            raise errors.UserError(
                f"{folder}: finished blocks are kept there, and it holds something else"
            )
        sharding.sync(f"{folder} compared")
        if jax.process_index() == 0:
            files.write_json(path, settings)

    def _path(self, layer: int) -> pathlib.Path:
        return self.folder / f"block-{layer:03d}.safetensors"

    def has(self, layer: int) -> bool:
        """Whether a block is done."""
        return self._path(layer).exists()

    def load(self, layer: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A block's new leaves, by their names within it, and its report."""
        return self._read(layer, _WEIGHTS)

    def bits(self, layer: int) -> dict[tuple[str, int], np.ndarray]:
        """The bits of a block's masks, as `PackedMasks` keeps them."""
        found, _ = self._read(layer, _MASKS)
        return {(path, layer): own for path, own in found.items()}

    def scales(self, layer: int) -> dict[tuple[str, int], np.ndarray]:
        """The scales of a block's grid, by slash path and layer."""
        found, _ = self._read(layer, _SCALES)
        return {(path, layer): own for path, own in found.items()}

    def _read(self, layer: int, kind: str) -> tuple[dict[str, np.ndarray], Any]:
        path = self._path(layer)
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                found = {
                    name.removeprefix(f"{kind}/"): file.get_tensor(name)
                    for name in file.offset_keys()
                    if name.startswith(f"{kind}/")
                }
                return found, json.loads(file.metadata()[_REPORT])
        except (OSError, safetensors.SafetensorError) as error:
            raise errors.UserError(
                f"{path}: cannot be read: {error}; remove the folder to start anew"
            ) from error

    def save(
        self,
        layer: int,
        leaves: Mapping[str, jax.Array],
        bits: Mapping[tuple[str, int], np.ndarray],
        scales: Mapping[tuple[str, int], np.ndarray],
        report: Mapping[str, Any],
    ) -> None:
        """Writes a block; a collective, as `sharding.to_host`."""
        tensors = {
            f"{_WEIGHTS}/{name}": sharding.to_host(leaf)
            for name, leaf in leaves.items()
        }
        tensors |= {f"{_MASKS}/{path}": own for (path, _), own in bits.items()}
        tensors |= {f"{_SCALES}/{path}": own for (path, _), own in scales.items()}
        if jax.process_index() == 0:
            with files.replacing(self._path(layer)) as beside:
                safetensors.numpy.save_file(
                    tensors, beside, metadata={_REPORT: json.dumps(report)}
                )
        sharding.sync(f"{self._path(layer)} written")


def forget(folder: pathlib.Path) -> None:
    """Removes the folder, once nothing of it is needed any more."""
    sharding.sync(f"{folder} not needed")
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
