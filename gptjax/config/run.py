"""All of a run."""

from typing import Annotated

import pydantic

from gptjax.config import sections
from gptjax.config.adapter import Adapter
from gptjax.config.adversarial import Adversarial
from gptjax.config.base import NonNegative, Section
from gptjax.config.compare import Compare
from gptjax.config.curve import Curve
from gptjax.config.data import Data, Source
from gptjax.config.distillation import Distillation
from gptjax.config.pruning import Pruning
from gptjax.config.quantization import Quantization
from gptjax.config.task import MAIN, Auxiliary, Mixing, Task
from gptjax.config.tuning import Search, Space, flat_spaces

_WHOLE_TEXTS = ("respect_documents", "append_eos")
_FOREIGN = {
    "language": ("limit", "valid_fraction", "augmentation"),
    "classification": _WHOLE_TEXTS,
    "tagging": (*_WHOLE_TEXTS, "augmentation"),
    "instructions": (*_WHOLE_TEXTS, "augmentation"),
}
"""The keys of `data` that mean nothing to a kind of task."""
_FOREIGN_OF_SOURCES = {
    "language": ("style", "label_column"),
    "classification": ("style",),
    "tagging": ("style",),
    "instructions": ("column", "label_column", "split", "data_dir"),
}
"""And those of `data.train` and `data.valid`."""


class Run(Section):
    """All of a run: `gptjax train`, `gptjax prune` and `gptjax compare` take one."""

    model: str
    """A Hugging Face folder, a run folder, a hub name, or `packaged`."""
    out: str
    """The run folder."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub name; None: the model's own."""
    seed: NonNegative = 0
    mesh: sections.Mesh = sections.Mesh()
    task: Task = Task()
    data: Data = Data()
    auxiliary: dict[Annotated[str, pydantic.Field(pattern=r"^\w+$")], Auxiliary] = (
        pydantic.Field(default_factory=dict)
    )
    """Further tasks, by name, that the model learns in turns with `task`."""
    mixing: Mixing = Mixing()
    training: sections.Training = sections.Training()
    optimizer: sections.Optimizer = sections.Optimizer()
    evaluation: sections.Evaluation = sections.Evaluation()
    logging: sections.Logging = sections.Logging()
    calibration: sections.Calibration = sections.Calibration()
    distillation: Distillation | None = None
    adversarial: Adversarial | None = None
    adapter: Adapter | None = None
    quantization: Quantization | None = None
    pruning: Pruning | None = None
    compare: Compare | None = None
    curve: Curve | None = None
    tune: dict[str, Space] = pydantic.Field(default_factory=dict)
    """What `gptjax tune` searches: dotted keys of this config, and their ranges."""
    search: Search | None = None

    @pydantic.field_validator("tune", mode="before")
    @classmethod
    def _by_dotted_keys(cls, value):
        return flat_spaces(value)

    @pydantic.model_validator(mode="after")
    def _task_fits(self):
        _check_task(self.task, self.data, where="")
        kinds = {self.task.kind}
        for name, each in self.auxiliary.items():
            _check_task(each.task, each.data, where=f"auxiliary.{name}.")
            kinds.add(each.task.kind)
        for name, field in sections.Evaluation.model_fields.items():
            foreign = name != "batch_sequences" and "language" not in kinds
            if foreign and getattr(self.evaluation, name) != field.default:
                raise ValueError(
                    f"evaluation.{name}: is of task.kind language; leave it out"
                )
        if (
            self.pruning is not None
            and "twin" in self.pruning.controls
            and (kinds != {"language"} or self.auxiliary)
        ):
            raise ValueError(
                "pruning.controls: twin compares losses of tokens of one task; leave "
                "it out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _several_tasks_fit(self):
        if not self.auxiliary:
            if self.mixing != Mixing():
                raise ValueError("mixing: there is one task alone; leave it out")
            return self
        names = {MAIN, *self.auxiliary}
        if MAIN in self.auxiliary or self.task.name in self.auxiliary:
            taken = MAIN if MAIN in self.auxiliary else self.task.name
            raise ValueError(f"auxiliary.{taken}: the run's own task has that name")
        if self.mixing.weights is not None and self.mixing.weights.keys() != names:
            raise ValueError(
                f"mixing.weights: given for {', '.join(sorted(self.mixing.weights))}; "
                f"the tasks are {', '.join(sorted(names))}"
            )
        for name in ("distillation", "compare"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: takes one task alone; leave auxiliary out")
        return self

    def tasks(self) -> dict[str, "Run"]:
        """The run of each task on its own: `main`, then the auxiliary ones."""
        alone = {"auxiliary": {}, "mixing": Mixing()}
        found = {MAIN: self.model_copy(update=alone)}
        for name, each in self.auxiliary.items():
            task = each.task
            if task.has_classifier:
                task = task.model_copy(update={"name": name})
            parts = {**alone, "task": task, "data": each.data}
            found[name] = self.model_copy(update=parts)
        return found

    @pydantic.model_validator(mode="after")
    def _teacher_fits(self):
        if self.distillation is None:
            return self
        if not self.training.steps and self.compare is None:
            raise ValueError("distillation: training.steps 0 learn from no teacher")
        if self.distillation.cache_top_k and self.task.kind != "language":
            raise ValueError(
                "distillation.cache_top_k: keeps scores of tokens in a text's "
                f"order, in which task.kind {self.task.kind} does not read them; leave "
                "it out"
            )
        is_dense = self.distillation.teacher == "dense"
        if is_dense and self.pruning is None and self.compare is None:
            raise ValueError(
                "distillation.teacher: dense is what round 0 of a pruning run ends "
                "with; to train, name a model"
            )
        if self.adversarial is not None:
            raise ValueError(
                "distillation: does not go with adversarial; leave one out"
            )
        if self.task.kind == "tagging":
            raise ValueError("distillation: task.kind tagging has none; leave it out")
        if self.task.language_weight:
            raise ValueError(
                "distillation: does not go with task.language_weight; leave one out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _curve_fits(self):
        if self.curve is None:
            return self
        if self.task.kind not in ("classification", "tagging"):
            raise ValueError(
                "curve: is of task.kind classification and tagging, not "
                f"{self.task.kind}"
            )
        for name in ("pruning", "compare"):
            if getattr(self, name) is not None:
                raise ValueError(f"curve: does not go with {name}; leave one out")
        if self.data.limit is not None:
            raise ValueError("data.limit: curve.sizes say it; leave it out")
        if self.data.valid is None:
            raise ValueError(
                "data.valid: missing; the runs of a curve are measured by the same "
                "texts"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _adapter_fits(self):
        if self.adapter is None:
            return self
        for name in ("pruning", "compare"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"adapter: does not go with {name}; prune first, and train an "
                    "adapter of the pruned model with gptjax train"
                )
        if self.quantization is not None:
            raise ValueError(
                "adapter: does not go with quantization; merge it, and quantize then"
            )
        if not self.training.steps:
            raise ValueError("adapter: training.steps 0 train none")
        if self.optimizer.unfreeze_every_steps and not self.task.has_classifier:
            raise ValueError(
                "optimizer.unfreeze_every_steps: at first only what comes after the "
                "blocks learns, and there an adapter has nothing; leave it out"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _quantization_fits(self):
        is_cut = self.pruning is not None and self.pruning.structured
        if self.quantization is not None and is_cut:
            raise ValueError(
                "quantization: does not go with pruning.structured; cut first"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _tuning_fits(self):
        if not self.tune:
            if self.search is not None:
                raise ValueError("search: there is nothing to search; give tune")
            return self
        if self.search is not None and self.seed in self.search.confirm_seeds:
            raise ValueError(
                f"search.confirm_seeds: {self.seed} is the seed of the trials; give "
                "others"
            )
        for name in ("compare", "curve"):
            if getattr(self, name) is not None:
                raise ValueError(f"tune: does not go with {name}; leave one out")
        if not self.is_measured:
            raise ValueError("data.valid: missing; trials are compared by it")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether models are evaluated on data that they do not train on."""
        return self.data.valid is not None or self.task.kind != "language"

    @pydantic.model_validator(mode="after")
    def _steps_fit_together(self):
        if self.training.batch_sequences % self.training.accumulation_steps:
            raise ValueError(
                "training.batch_sequences must be divisible by "
                "training.accumulation_steps"
            )
        optimizer = self.optimizer
        if optimizer.plateau_evaluations and not (
            self.training.evaluate_every_steps and self.is_measured
        ):
            raise ValueError(
                "optimizer.plateau_evaluations: needs training.evaluate_every_steps "
                "and data.valid"
            )
        early = self.training.early_stopping_evaluations
        if optimizer.plateau_evaluations and 0 < early <= optimizer.plateau_evaluations:
            raise ValueError(
                f"optimizer.plateau_evaluations: training stops after {early} "
                "evaluations without a better one, before the rate could fall"
            )
        if (
            optimizer.unfreeze_every_steps
            and self.pruning is not None
            and (
                self.pruning.rewind.schedule == "continue"
                or self.pruning.rewind.to.startswith("step:")
            )
        ):
            raise ValueError(
                "optimizer.unfreeze_every_steps: every round would freeze anew, while "
                "its schedule goes on; rewind to pretrained and restart it"
            )
        if optimizer.plateau_factor != 0.5 and not optimizer.plateau_evaluations:
            raise ValueError(
                "optimizer.plateau_factor: does nothing without plateau_evaluations"
            )
        steps, profile = self.training.steps, self.training.profile
        is_continued = (
            self.pruning is not None and self.pruning.rewind.schedule == "continue"
        )
        bounds = profile.bounds()
        if bounds is not None and bounds[1] > steps and not is_continued:
            raise ValueError(
                f"training.profile.steps: {profile.steps} ends after training.steps "
                f"{steps}"
            )
        if self.pruning is None:
            return self
        if self.pruning.rewind.to.startswith("step:"):
            step = int(self.pruning.rewind.to.removeprefix("step:"))
            if step >= steps:
                raise ValueError(
                    f"pruning.rewind.to: step {step} is not before the end of round 0 "
                    f"(training.steps {steps})"
                )
        if self.pruning.rewind.to.startswith("step:") and (
            self.training.early_stopping_evaluations
        ):
            raise ValueError(
                "training.early_stopping_evaluations: round 0 might stop before the "
                f"step that pruning.rewind.to names, {self.pruning.rewind.to}"
            )
        if "twin" in self.pruning.controls and not steps:
            raise ValueError(
                "pruning.controls: twin trains on other batches, and training.steps 0 "
                "on none; leave it out"
            )
        if self.pruning.criterion == "movement" and not steps:
            raise ValueError("training.steps: 0; movement needs training to score by")
        if self.pruning.schedule in ("gradual", "rigl", "set"):
            if self.training.early_stopping_evaluations:
                raise ValueError(
                    "training.early_stopping_evaluations: going back to the best step "
                    f"would leave the masks of that step; {self.pruning.schedule} "
                    "needs all steps"
                )
            updates = self.pruning.updates
            last = updates.last_step or max(3 * steps // 4, 1)
            if not updates.first_step < last <= steps:
                raise ValueError(
                    f"pruning.updates: first_step {updates.first_step} and last_step "
                    f"{last} do not lie within training.steps {steps}"
                )
            if self.pruning.schedule != "gradual" and (
                (updates.first_step or updates.every_steps) >= last
            ):
                raise ValueError(
                    f"pruning.updates.every_steps: {updates.every_steps} leave no "
                    f"exchange before the last step, {last}"
                )
        return self


def _check_task(task: Task, data: Data, *, where: str) -> None:
    """Raises a `ValueError` for settings of data that are not of a task's kind.

    Args:
      where: what stands before the keys.
    """
    defaults = {name: field.default for name, field in Data.model_fields.items()}
    for name in _FOREIGN[task.kind]:
        if getattr(data, name) != defaults[name]:
            raise ValueError(
                f"{where}data.{name}: task.kind {task.kind} has none; leave it out"
            )
    for split in ("train", "valid"):
        source = getattr(data, split)
        for name in _FOREIGN_OF_SOURCES[task.kind] if source is not None else ():
            if getattr(source, name) != Source.model_fields[name].default:
                raise ValueError(
                    f"{where}data.{split}.{name}: task.kind {task.kind} has none; "
                    "leave it out"
                )
    if task.kind == "language" or data.valid is None:
        return
    if data.valid_fraction != defaults["valid_fraction"]:
        raise ValueError(
            f"{where}data.valid_fraction: data.valid is given; leave it out"
        )
