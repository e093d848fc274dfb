"""What every round of a run needs: where things lie, how they are loaded."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from gptjax import config, convert, masks, training
from gptjax.pruning import calibration, plan, round_report


@dataclasses.dataclass(frozen=True)
class Context:
    """A pruning run under way."""

    prepared: training.Prepared
    trainer: training.Trainer
    pruning: config.Pruning
    folder: pathlib.Path

    def round_folder(self, number: int) -> pathlib.Path:
        """Where a round's masks, report and model lie."""
        return round_report.folder(self.folder, number)

    def model_of(self, number: int) -> pathlib.Path:
        """The model folder that a finished round ended with."""
        folder = self.round_folder(number) / "model"
        return folder if number or folder.exists() else self.prepared.source

    def start_of(self, number: int) -> pathlib.Path:
        """The model folder that round `number` trains from, under its masks."""
        changed = self.round_folder(number) / "start"
        if changed.exists():
            return changed
        if number == 0 or self.pruning.schedule != "iterative":
            return self.prepared.source
        if self.pruning.rewind.to == "none":
            return self.model_of(number - 1)
        if plan.rewind_step(self.pruning) is not None:
            return self.round_folder(0) / "rewind"
        return self.prepared.source

    def masks_path(self, number: int) -> pathlib.Path:
        """Where a round's masks lie."""
        return self.round_folder(number) / "masks.safetensors"

    def control_masks_path(self, number: int, kind: str) -> pathlib.Path:
        """Where the masks of a round's control lie, which may be the round's own."""
        if kind in ("reinit", "twin"):
            return self.masks_path(number)
        return self.round_folder(number) / f"masks-{kind}.safetensors"

    def masks_of(self, number: int) -> masks.Masks:
        """The stored masks of a finished or begun round."""
        if number == 0:
            return self.trainer.dense_masks()
        return masks.load(self.masks_path(number), self.trainer.placed_shapes())

    @property
    def mask_shapes(self) -> masks.Masks:
        """The shapes of the run's masks."""
        return masks.shapes(self.trainer.shapes, self.trainer.prunable)

    def key(self, purpose: str, number: int) -> jax.Array:
        """A random key for one purpose in one round."""
        key = jax.random.key(self.prepared.settings.seed)
        purposes = ("random", "reinit", "shuffle", "criterion")
        return jax.random.fold_in(
            jax.random.fold_in(key, purposes.index(purpose)), number
        )

    @functools.cached_property
    def calibration_tokens(self) -> np.ndarray:
        """The calibration sequences (N, T) of the run."""
        return calibration.sequences(self.prepared)

    def export(self, folder: pathlib.Path, params: Any) -> None:
        """Writes params, or what is shaped like them, as a model folder.

        A Hugging Face folder but where that would be filled up with zeros, or has no
        room for the heads of the tasks: it is to be read again as it is.
        """
        config = self.trainer.model_config
        if convert.is_whole(config) and not self.prepared.has_auxiliary_heads:
            self.prepared.export(folder, params)
        else:
            convert.save_native(folder, config, params, **self.prepared.sidecars)
