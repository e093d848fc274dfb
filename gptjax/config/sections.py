"""The sections of a config that every kind of run has."""

import pathlib
from typing import Annotated, Any, Literal

import pydantic

from gptjax.config.base import ComputeDtype, Fraction, NonNegative, Positive, Section
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


class Source(Section):
    """Where texts come from; a plain string is its `path`."""

    path: str
    """A file, a folder of files of one kind, a saved Hugging Face data set, the folder
    of a built TFDS version, or with `format: tfds` the name of a TFDS data set. All but
    TFDS's may lie in an object store: `gs://bucket/a.txt`."""
    format: Literal["text", "jsonl", "csv", "hf", "tfds"] | None = None
    """None: by the name's ending (.txt, .jsonl, .csv), or what a folder holds."""
    column: str = "text"
    """The column or key that holds the text; not used for plain text files."""
    label_column: str = "label"
    """The column or key that holds the label, where texts are classified."""
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


Operation = Literal[
    "synonyms", "insertion", "swap", "deletion", "shuffle", "sentences", "duplication"
]


class Augmentation(Section):
    """Changes that training texts undergo, anew each time that they are read."""

    operations: dict[Operation, Fraction]
    """With what probability each is applied, in this order: words replaced by
    `synonyms`; synonyms inserted; words swapped; words deleted; words moved a few
    places (`shuffle`); two `sentences` swapped; a short text said twice
    (`duplication`)."""
    strength: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.1
    """What fraction of words the first four change; one word at least."""
    synonyms: str | None = None
    """A file of them, or `wordnet` (English; extra `wordnet`)."""

    @pydantic.model_validator(mode="after")
    def _has_synonyms(self):
        for name in ("synonyms", "insertion"):
            if self.operations.get(name) and self.synonyms is None:
                raise ValueError(
                    f"operations.{name}: needs synonyms: wordnet or a file"
                )
        if not any(self.operations.values()):
            raise ValueError("operations: none is ever applied")
        if self.synonyms and not (
            self.operations.get("synonyms") or self.operations.get("insertion")
        ):
            raise ValueError("synonyms: neither synonyms nor insertion is applied")
        return self


class Data(Section):
    """Texts, and how they become sequences."""

    train: Source | None = None
    valid: Source | None = None
    valid_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    """Where texts are classified and `valid` is missing: how many of the training texts
    validate instead, of every label the same fraction."""
    augmentation: Augmentation | None = None
    """Where texts are classified; validation texts stay as they are."""
    limit: Positive | None = None
    """Where texts are classified: train on so many of them, drawn by the run's seed."""
    sequence_tokens: Positive = 1024
    """T: the length of a training sequence; of texts that are classified, the most
    tokens that are read."""
    respect_documents: bool = False
    """Tokens see only their own document; positions start anew with each."""
    append_eos: bool = False
    """End every document with the tokenizer's end-of-text token."""
    cache_dir: str | None = None
    """Where tokenized texts are kept, e.g. `gs://bucket/tokens`, of which each host
    then fetches what it reads; None: `~/.cache/gptjax/tokens`."""
    workers: NonNegative = 0
    """Processes that tokenize a large source; 0: one for each core."""


class Task(Section):
    """What a run trains for."""

    kind: Literal["language", "classification"] = "language"
    """`language`: the next token. `classification`: the label of a text, by a linear
    layer on its last token, as Hugging Face's `GPT2ForSequenceClassification` has."""
    name: Annotated[str, pydantic.Field(pattern=r"^\w+$")] = "label"
    """Of the classifier. A model that has one of this name goes on with it and with its
    labels; else a new one learns those of the training texts."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What a text of a label weighs in the loss; `balanced`: every label as much as any
    other; None: every text."""
    language_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """How much of the language-modelling loss of the same texts is added (GPT-1, 2018,
    takes 0.5)."""

    @pydantic.field_validator("class_weights", mode="before")
    @classmethod
    def _labels_are_text(cls, value):
        """YAML reads the label 1 as a number."""
        if isinstance(value, dict):
            return {str(label): weight for label, weight in value.items()}
        return value

    @pydantic.model_validator(mode="after")
    def _fits_its_kind(self):
        for name in ("name", "class_weights", "language_weight"):
            default = type(self).model_fields[name].default
            if self.kind == "language" and getattr(self, name) != default:
                raise ValueError(f"{name}: kind language has none; leave it out")
        if isinstance(self.class_weights, dict) and not all(
            weight > 0 for weight in self.class_weights.values()
        ):
            raise ValueError("class_weights: they must be positive")
        return self


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


class Distillation(Section):
    """A teacher that a model learns from beside its texts."""

    teacher: str
    """`dense`: the model that round 0 of a pruning run ends with. Else a Hugging Face
    folder, a run folder, a hub name, or `packaged`."""
    weight: Fraction = 0.5
    """Of the loss, how much is the divergence from the teacher's scores; the rest is
    that of the texts."""
    temperature: Annotated[float, pydantic.Field(gt=0)] = 2.0
    """What scores are divided by before they are compared."""
    hidden_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """What the distance of the layers' states from the teacher's counts in the loss; it
    is in units of their squared length, and takes memory for every layer."""
    attention_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """What the divergence of attention from the teacher's counts; it takes memory for
    all pairs of tokens of every layer and head."""
    layers: tuple[tuple[NonNegative, NonNegative], ...] | None = None
    """Pairs of a layer of the student and one of the teacher, counted from 0, that
    those two weights compare; None: evenly spread, the last ones together."""

    @pydantic.model_validator(mode="after")
    def _layers_are_compared(self):
        if self.layers is not None and not (
            self.hidden_weight or self.attention_weight
        ):
            raise ValueError(
                "layers: neither hidden_weight nor attention_weight compares them; "
                "leave them out"
            )
        if self.layers == ():
            raise ValueError("layers: give some pairs, or leave them out")
        default = type(self).model_fields["temperature"].default
        if not self.weight and self.temperature != default:
            raise ValueError("temperature: weight 0 compares no scores; leave it out")
        if not (self.weight or self.hidden_weight or self.attention_weight):
            raise ValueError("weight: 0, and no other: the teacher would teach nothing")
        return self


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
