"""What every structured round needs: its shape, its Trainer, what lies where."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from gptjax import convert, masks, model, training
from gptjax.pruning import calibration, round_report
from gptjax.pruning.structured import choosing, plan


@dataclasses.dataclass(frozen=True)
class Context:
    """A structured run under way."""

    prepared: training.Prepared
    planned: tuple[plan.Round, ...]
    folder: pathlib.Path
    on_evaluation: training.OnEvaluation = training.ignore

    def config_of(self, number: int) -> model.Config:
        """The shape that round `number` ends with."""
        if number == 0:
            return self.prepared.model_config
        return self.planned[number - 1].after

    def trainer(self, number: int) -> training.Trainer:
        """A round's own Trainer: another shape is another program."""
        cut = dataclasses.replace(self.prepared, model_config=self.config_of(number))
        return cut.trainer(
            schedule_steps=self.prepared.settings.training.steps,
            on_evaluation=self.on_evaluation,
        )

    def round_folder(self, number: int) -> pathlib.Path:
        """Where a round's choice, masks, report and model lie."""
        return round_report.folder(self.folder, number)

    def load_params(self, number: int) -> Any:
        """The params that round `number` ended with, as it is."""
        folder = self.prepared.source
        if number:
            native = self.round_folder(number) / "native"
            folder = native if native.exists() else self.round_folder(number) / "model"
        return self.prepared.load_params(folder)

    @functools.cached_property
    def calibration_tokens(self) -> np.ndarray | None:
        """The calibration sequences (N, T); None where no round reads any."""
        if not any(choosing.needs_text(this) for this in self.planned):
            return None
        return calibration.sequences(self.prepared)

    @property
    def holds_masks(self) -> bool:
        """Whether weights are pruned that stay so."""
        assert self.prepared.settings.pruning is not None
        return self.prepared.settings.pruning.masks_from is not None

    def masks_path(self, number: int) -> pathlib.Path:
        """Where a round's masks lie, if any are held."""
        return self.round_folder(number) / "masks.safetensors"

    def masks_of(self, number: int, trainer: training.Trainer) -> masks.Masks:
        """The masks of a finished or begun round; dense where none are held."""
        if not self.holds_masks:
            return trainer.dense_masks()
        return masks.load(self.masks_path(number), trainer.placed_shapes())

    def export(self, number: int, params: Any, folder: pathlib.Path) -> None:
        """Writes a round's model as a Hugging Face folder.

        Where that is filled up with zeros, or leaves out those of auxiliary tasks, the
        model as it is goes beside it, to `native`.
        """
        config = self.config_of(number)
        self.prepared.export(folder, params, config)
        if self.prepared.has_auxiliary_heads:
            beside = folder.with_name("native")
            convert.save_native(beside, config, params, **self.prepared.sidecars)
