"""The sections of a config that every kind of run has."""

from typing import Annotated, Any, Literal

import pydantic

from gptjax.config.base import ComputeDtype, Fraction, NonNegative, Positive, Section
from gptjax.config.data import Source
from gptjax.config.profile import Profile


class Mesh(Section):
    """How many devices each axis of the mesh has; -1 takes all that are left."""

    data: int = -1
    """Copies of the model, each with its share of a batch."""
    fsdp: int = 1
    """Devices over which every weight is split, each with its share of a batch."""
    context: int = 1
    """Devices over which every sequence is split, where one does not hold it."""
    tensor: int = 1
    """Devices over which heads and MLP neurons are split."""


class Optimizer(Section):
    """An optax optimizer and its learning-rate schedule."""

    name: str = "adamw"
    learning_rate: Annotated[float, pydantic.Field(gt=0)] = 1e-4
    """The peak, reached after the warmup."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """The decay from the peak to `final_fraction` of it over the round's steps."""
    warmup_steps: NonNegative = 0
    final_fraction: Fraction = 0.0
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """For optimizers that take it; biases and norms are never decayed."""
    clip_norm: Annotated[float, pydantic.Field(gt=0)] | None = 1.0
    """The largest global norm of a gradient; None: no clipping."""
    layer_decay: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    """What the learning rate of a layer is of that of the layer above it."""
    unfreeze_every_steps: NonNegative = 0
    """Only what comes after the blocks learns at first, and a layer more every so many
    steps, from the top; 0: all learn."""
    plateau_evaluations: NonNegative = 0
    """After so many evaluations without a better one the learning rate falls, and again
    after as many more; 0: never."""
    plateau_factor: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.5
    """What it is multiplied by then."""
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Further keyword arguments of the optax optimizer, e.g. `b2: 0.95`."""


class DropoutSchedule(Section):
    """What a checkpoint's dropout rates are multiplied by: a line, then a constant."""

    steps: Positive
    """How long the line is, of the learning-rate schedule's steps."""
    start: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """At the first step; 0: no dropout."""
    end: Annotated[float, pydantic.Field(ge=0)] = 1.0
    """From step `steps` on."""


class Training(Section):
    """The loop."""

    steps: NonNegative = 1000
    """Optimizer steps; of each round, where a run prunes."""
    batch_sequences: Positive = 8
    """Sequences in one optimizer step, over all devices and accumulation steps."""
    accumulation_steps: Positive = 1
    """Parts that a batch is split into to save memory; the result is the same."""
    compute_dtype: ComputeDtype = "float32"
    """Weights are float32 all the same."""
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"
    """The formula itself, or the fused kernel of NVIDIA's GPUs or of TPUs; `auto` takes
    the kernel where there is one for the device and for what is asked."""
    remat: Literal["none", "matmuls", "full"] = "matmuls"
    """What the backward pass finds of a layer, and does not compute again: everything;
    the results of large products; nothing but the layer's input."""
    unroll_layers: Positive = 1
    """How many layers one turn of the loop over layers holds."""
    loss_chunk_tokens: Positive | None = None
    """For how many tokens a device holds logits at once; None: for 64 MiB of them."""
    dropout: bool = True
    """Use the checkpoint's dropout rates."""
    dropout_schedule: DropoutSchedule | None = None
    """Moves them as training goes on: up, as in curriculum dropout (arXiv:1703.06229),
    or down; None: they stay."""
    average_decay: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """Evaluate and export a moving average of the weights that keeps so much of itself
    each step, e.g. 0.999; None: the weights themselves."""
    evaluate_every_steps: NonNegative = 0
    """0: only at the end."""
    checkpoint_every_steps: NonNegative = 0
    """0: only at the end (and when the process is told to stop)."""
    keep_checkpoints: Positive = 2
    """How many of the newest are kept, beside the best."""
    early_stopping_evaluations: NonNegative = 0
    """Stop after so many evaluations without a better one; 0: never."""
    log_every_steps: Positive = 10
    profile: Profile = Profile()

    @pydantic.model_validator(mode="after")
    def _drops_what_it_schedules(self):
        if self.dropout_schedule is not None and not self.dropout:
            raise ValueError("dropout_schedule: dropout is off; leave one out")
        return self


class Evaluation(Section):
    """The protocol of every perplexity; of other tasks, `batch_sequences` alone."""

    context_tokens: Positive | None = None
    """The window; None: the model's n_positions, 2048 at most."""
    stride_tokens: Positive | None = None
    """How far a window moves; None: by its whole length, without overlap."""
    batch_sequences: Positive = 8
    limit_tokens: Positive | None = None
    """Only so many tokens from the beginning; None: all."""
    sample_prompt: str | tuple[str, ...] | None = None
    """What the models before, after and after each round go on writing from, for the
    report: one prompt, or several."""
    sample_tokens: Positive = 60
    """How many tokens they write."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """All of `sample_prompt`."""
        given = self.sample_prompt or ()
        return (given,) if isinstance(given, str) else given


class Logging(Section):
    """Where metrics go beside `metrics.jsonl` and TensorBoard's events."""

    to: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    """Trackers, each an extra of gptjax; their own environment variables hold."""
    project: str = "gptjax"
    """Or experiment, as MLflow calls it."""
    name: str | None = None
    """Of the run there; None: the run folder's."""

    @pydantic.field_validator("to", mode="before")
    @classmethod
    def _one_is_some(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Calibration(Section):
    """Text that criteria and reconstruction watch the model read."""

    text: Source | None = None
    """None: the training text."""
    sequences: Positive = 128
    sequence_tokens: Positive | None = None
    """None: `data.sequence_tokens`."""
    order: Literal["first", "random"] = "random"
    """The text's first sequences, or ones that the run's seed draws."""
    batch_sequences: Positive = 8
    """Sequences read at once."""
