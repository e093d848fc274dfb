"""Typed configs of a run: YAML and `key.sub=value` overrides in, checked values out.

OmegaConf reads and merges, pydantic types and checks. A YAML file holds only what
differs from the defaults here; the sizes of the model come from the checkpoint.
"""

import difflib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import omegaconf
import pydantic
import yaml

from gptjax import assets, errors

Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = Annotated[int, pydantic.Field(gt=0)]
NonNegative = Annotated[int, pydantic.Field(ge=0)]
ComputeDtype = Literal["float32", "bfloat16"]


class Section(pydantic.BaseModel):
    """A part of a config: frozen, and refusing every key that it does not know."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Mesh(Section):
    """How many devices each axis of the mesh has; -1 takes all that are left."""

    data: int = -1
    """Copies of the model, each with its share of a batch."""
    fsdp: int = 1
    """Devices over which every weight is split, each with its share of a batch."""
    tensor: int = 1
    """Devices over which heads and MLP neurons are split."""


class Source(Section):
    """Where texts come from; a plain string is its `path`."""

    path: str
    """A file, a folder of files of one kind, a saved Hugging Face data set, the folder
    of a built TFDS version, or with `format: tfds` the name of a TFDS data set."""
    format: Literal["text", "jsonl", "csv", "hf", "tfds"] | None = None
    """None: by the name's ending (.txt, .jsonl, .csv), or what a folder holds."""
    column: str = "text"
    """The column or key that holds the text; not used for plain text files."""
    split: str | None = None
    """Which split of a Hugging Face or TFDS data set, e.g. `train[:80%]`."""
    data_dir: str | None = None
    """Where a TFDS data set was built; None: TFDS's usual place, and it downloads and
    builds what is not there."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_a_path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        """What the texts are called in reports: the file, and the split if any."""
        name = pathlib.Path(self.path).name
        return name if self.split is None else f"{name}[{self.split}]"


class Data(Section):
    """Texts, and how they become sequences."""

    train: Source | None = None
    valid: Source | None = None
    sequence_tokens: Positive = 1024
    """T: the length of a training sequence."""
    respect_documents: bool = False
    """Tokens see only their own document; positions start anew with each."""
    append_eos: bool = False
    """End every document with the tokenizer's end-of-text token."""
    cache_dir: str | None = None
    """Where tokenized texts are kept; None: `~/.cache/gptjax/tokens`."""
    workers: NonNegative = 0
    """Processes that tokenize a large source; 0: one for each core."""


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
    options: dict[str, Any] = {}
    """Further keyword arguments of the optax optimizer, e.g. `b2: 0.95`."""


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
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    dropout: bool = True
    """Use the checkpoint's dropout rates."""
    evaluate_every_steps: NonNegative = 0
    """0: only at the end."""
    checkpoint_every_steps: NonNegative = 0
    """0: only at the end (and when the process is told to stop)."""
    keep_checkpoints: Positive = 2
    """How many of the newest are kept, beside the best."""
    early_stopping_evaluations: NonNegative = 0
    """Stop after so many evaluations without a better one; 0: never."""
    log_every_steps: Positive = 10


class Evaluation(Section):
    """The protocol of every perplexity."""

    context_tokens: Positive | None = None
    """The window; None: the model's n_positions."""
    stride_tokens: Positive | None = None
    """How far a window moves; None: by its whole length, without overlap."""
    batch_sequences: Positive = 8
    limit_tokens: Positive | None = None
    """Only so many tokens from the beginning; None: all."""
    sample_prompt: str | None = None
    """What the models before and after go on writing from, for the report."""
    sample_tokens: Positive = 60
    """How many tokens they write."""


class Rewind(Section):
    """Where the surviving weights go back to before a round trains."""

    to: Annotated[
        str, pydantic.Field(pattern=r"^(pretrained|none|step:[1-9][0-9]*)$")
    ] = "pretrained"
    """`pretrained`: the weights that the run started with. `step:<k>`: those after
    step k of round 0 (Frankle et al., arXiv:1912.05671). `none`: train on (Renda
    et al., arXiv:2003.02389)."""
    schedule: Literal["restart", "continue"] = "restart"
    """`restart`: the learning rate replays from the step rewound to. `continue`: one
    schedule spans all rounds."""


class Pruning(Section):
    """Iterative magnitude pruning."""

    sparsities: tuple[Annotated[float, pydantic.Field(gt=0, lt=1)], ...] | None = None
    """The fraction of prunable weights that are zero after each round, rising."""
    fraction_per_round: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """Instead of `sparsities`: the fraction of the survivors that a round prunes."""
    rounds: Positive | None = None
    """With `fraction_per_round`: how many rounds."""
    scope: Literal["global", "layer"] = "global"
    """Rank all prunable weights together, or each weight matrix on its own."""
    rewind: Rewind = Rewind()
    prunable: tuple[tuple[str, bool], ...] = (
        (r"blocks/(attn|mlp)/\w+/kernel", True),
        (r".*", False),
    )
    """Rules (regex of a leaf's slash path, may be pruned), first match wins."""
    controls: tuple[Literal["random", "reinit"], ...] = ()
    """Trained beside each round: `random`, a random mask with the same counts;
    `reinit`, the same mask on freshly initialised weights."""

    @pydantic.model_validator(mode="after")
    def _one_way_to_say_it(self):
        if (self.sparsities is None) == (self.fraction_per_round is None):
            raise ValueError("give either sparsities or fraction_per_round and rounds")
        if (self.fraction_per_round is None) != (self.rounds is None):
            raise ValueError("fraction_per_round and rounds go together")
        if self.sparsities is not None:
            pairs = zip(self.sparsities, self.sparsities[1:], strict=False)
            if not self.sparsities or any(a >= b for a, b in pairs):
                raise ValueError("sparsities must rise from round to round")
        return self

    def targets(self) -> tuple[float, ...]:
        """The sparsity after each round."""
        if self.sparsities is not None:
            return self.sparsities
        survive = 1 - self.fraction_per_round
        return tuple(1 - survive**n for n in range(1, self.rounds + 1))


class Run(Section):
    """All of a run: `gptjax train` and `gptjax prune` take one."""

    model: str
    """A Hugging Face folder, a run folder, a hub name, or `packaged`."""
    out: str
    """The run folder."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub name; None: the model's own."""
    seed: NonNegative = 0
    mesh: Mesh = Mesh()
    data: Data = Data()
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    pruning: Pruning | None = None

    @pydantic.model_validator(mode="after")
    def _steps_fit_together(self):
        if self.training.batch_sequences % self.training.accumulation_steps:
            raise ValueError(
                "training.batch_sequences must be divisible by "
                "training.accumulation_steps"
            )
        if self.pruning is not None and self.pruning.rewind.to.startswith("step:"):
            step = int(self.pruning.rewind.to.removeprefix("step:"))
            if step >= self.training.steps:
                raise ValueError(
                    f"pruning.rewind.to: step {step} is not before the end of round 0 "
                    f"(training.steps {self.training.steps})"
                )
        return self


def load(
    path: str | pathlib.Path | None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Run:
    """The config of a YAML file with overrides on top.

    Args:
      path: the file; None for overrides alone. `${packaged:NAME}` in it stands for
        the path of a text that ships with gptjax.
      overrides: `key.sub=value` strings, or a mapping of dotted keys to values.

    Raises:
      UserError: naming the dotted key, what it got and what it may be.
    """
    omegaconf.OmegaConf.register_resolver(
        "packaged", lambda name: str(assets.text(name)), replace=True
    )
    try:
        merged = omegaconf.OmegaConf.create({})
        if path is not None:
            merged = omegaconf.OmegaConf.load(path)
            if not isinstance(merged, omegaconf.DictConfig):
                raise errors.UserError(f"{path}: a config is a mapping of keys")
        if isinstance(overrides, Mapping):
            for key, value in overrides.items():
                omegaconf.OmegaConf.update(merged, key, value, force_add=True)
        else:
            for override in overrides:
                if "=" not in override:
                    raise errors.UserError(
                        f"{override!r} is no override; write key.sub=value"
                    )
            dotlist = omegaconf.OmegaConf.from_dotlist(list(overrides))
            merged = omegaconf.OmegaConf.merge(merged, dotlist)
        values = omegaconf.OmegaConf.to_container(merged, resolve=True)
    except FileNotFoundError as error:
        raise errors.UserError(f"{path}: there is no such config file") from error
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise errors.UserError(f"{path}: not a config: {reason}") from error
    return check(values)


def check(values: Any) -> Run:
    """The `Run` of plain nested values.

    Raises:
      UserError: as `load` does.
    """
    try:
        return Run.model_validate(values)
    except pydantic.ValidationError as error:
        raise errors.UserError(
            "; ".join(_explain(problem) for problem in error.errors())
        ) from error


def dump(config: Run) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic error as `dotted.key: what is wrong`."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(fields)
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing; it must be given"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: got {problem['input']!r}; {message}"


def _section_at(location: Sequence[str | int]) -> type[Section]:
    """The section class that the keys of `location` lead to."""
    section: Any = Run
    for part in location:
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(
            option
            for option in options
            if isinstance(option, type) and issubclass(option, Section)
        )
    return section
