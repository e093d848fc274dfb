"""How a run prunes: what is ranked, in which pattern, when, and what is cut out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from gptjax.config.base import NonNegative, Positive, Section

Criterion = Literal["magnitude", "random", "taylor", "movement", "wanda", "sparsegpt"]
Sparsity = Annotated[float, pydantic.Field(ge=0, lt=1)]

Allocation = Literal["uniform", "global", "erk", "owl", "weighted"]

# Which weights a criterion compares where the config does not say.
_SCOPES = {"wanda": "row", "sparsegpt": "layer"}
_DYNAMIC = ("rigl", "set")


def pattern_as_written(value: Any) -> Any:
    """A pattern as its author wrote it.

    YAML reads an unquoted 2:4 as a number to the base of 60.
    """
    if type(value) is int and value >= 60:
        return f"{value // 60}:{value % 60}"
    return value


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


class Updates(Section):
    """When masks change within a training phase: `gradual`, `rigl` and `set`."""

    first_step: NonNegative = 0
    """Before it the masks stay as they start."""
    last_step: Positive | None = None
    """From it on the masks stay as they are; None: three quarters of the steps."""
    every_steps: Positive = 10
    initial_sparsity: Sparsity = 0.0
    """Where `gradual` starts."""
    drop_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.3
    """Of the survivors, how many are exchanged: by `set` each time, by `rigl` at first,
    and ever fewer as a cosine."""


class Reconstruction(Section):
    """Training of each pruned block to give what it gave before it was pruned."""

    epochs: Positive = 5
    """Passes over the calibration sequences."""
    learning_rate: Annotated[float, pydantic.Field(gt=0)] = 2e-4
    """Of Adam."""


class Removal(Section):
    """One structured round: what is cut out of the model, and which of it."""

    what: Literal["layers", "neurons", "heads", "width"]
    """`layers`: whole blocks. `neurons`: of the MLP. `heads`: of the attention.
    `width`: of the residual stream, whole heads' widths of it, and as many heads;
    where these have a width of their own (Llama, Qwen3), it alone.
    Every layer loses the same number of neurons or heads."""
    count: Positive | None = None
    """How many (of neurons, heads: in each layer)."""
    fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """Instead of `count`: the fraction of what there is, rounded."""
    indices: tuple[NonNegative, ...] | None = None
    """Instead of both: which layers, counted from 0."""
    by: Literal["influence", "loss", "activation", "taylor", "magnitude"] | None = None
    """Layers: `influence` (the default) or `loss`. Neurons, heads: `activation` (the
    default), `taylor` or `magnitude`. Width: `activation` (the default)."""

    @pydantic.model_validator(mode="after")
    def _one_way_to_say_it(self):
        given = [self.count, self.fraction, self.indices]
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of count, fraction and indices")
        if self.indices is not None and self.what != "layers":
            raise ValueError("indices name layers; give count or fraction")
        known = {
            "layers": ("influence", "loss"),
            "neurons": ("activation", "taylor", "magnitude"),
            "heads": ("activation", "taylor", "magnitude"),
            "width": ("activation",),
        }[self.what]
        if self.by is not None and self.by not in known:
            raise ValueError(f"{self.what} are chosen by " + " or ".join(known))
        if self.by is not None and self.indices is not None:
            raise ValueError("by: indices say which layers go; leave it out")
        return self

    @property
    def measure(self) -> str:
        """What they are chosen by, the default filled in."""
        return self.by or ("influence" if self.what == "layers" else "activation")


class Pruning(Section):
    """What is pruned, how much of it and when."""

    schedule: Literal["iterative", "one-shot", "gradual", "rigl", "set"] = "iterative"
    """`iterative`: train, prune, rewind, in rounds. `one-shot`: prune the model as it
    comes, then train (for `training.steps`, which may be 0). `gradual`: a sparsity
    that rises during training (Zhu and Gupta, arXiv:1710.01878). `rigl`, `set`: a
    fixed sparsity whose mask moves during training (Evci et al., arXiv:1911.11134;
    Mocanu et al., arXiv:1707.04780)."""
    sparsities: tuple[Sparsity, ...] | None = None
    """The fraction of prunable weights that are zero after each round, rising; only
    one where the schedule is not `iterative`."""
    fraction_per_round: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """Instead of `sparsities`: the fraction of the survivors that a round prunes."""
    rounds: Positive | None = None
    """With `fraction_per_round`: how many rounds."""
    criterion: Criterion = "magnitude"
    """What is pruned first: the lowest of these scores."""
    pattern: Annotated[
        str,
        pydantic.Field(
            pattern=r"^(unstructured|[1-9][0-9]*:[1-9][0-9]*|[1-9][0-9]*x[1-9][0-9]*)$"
        ),
    ] = "unstructured"
    """`unstructured`; `N:M`: N of M consecutive inputs of an output survive, e.g. 2:4;
    `RxC`: tiles of R inputs and C outputs go as one, e.g. 16x16."""
    scope: Literal["global", "layer", "row"] | None = None
    """Which weights are ranked together: all of them, each layer of each weight, or
    each output row. None: the criterion's own: `row` for wanda, whose scores do not
    compare across layers, `layer` for sparsegpt and where an allocation is given, else
    `global`."""
    allocation: Allocation | None = None
    """How the budget is spread over layers that are ranked apart: the same sparsity
    (the default), as a global ranking would, by their sizes (ERK), by their outliers
    (OWL) or by `density_weights`."""
    density_weights: (
        dict[
            Annotated[str, pydantic.Field(pattern=r"^\w+(/\w+)*$")],
            Annotated[float, pydantic.Field(gt=0)],
        ]
        | None
    ) = None
    """For `weighted`: what a layer keeps is proportional to this. `3`: of block 3, the
    first being 0; `mlp`, `mlp/up`: of that kind of weight; `3/mlp`: of both. Those that
    name a layer are multiplied; others have 1. The sparsity of the whole stays."""
    owl_outlier: Annotated[float, pydantic.Field(gt=0)] = 5.0
    """A score so many times its layer's mean is an outlier (M of arXiv:2310.05175)."""
    owl_spread: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.08
    """How far OWL moves a layer's sparsity at most (lambda of arXiv:2310.05175)."""
    reconstruction: Reconstruction | None = None
    """None: surviving weights are left to the training."""
    updates: Updates = Updates()
    masks_from: str | None = None
    """Instead of sparsities: the ticket of another run, as its folder, the folder of
    one of its rounds, or a masks file. With `structured`: the masks to be cut along."""
    structured: tuple[Removal, ...] = ()
    """Instead of sparsities: what each round removes physically."""
    rewind: Rewind = Rewind()
    prunable: tuple[tuple[str, bool], ...] = (
        (r"blocks/(attn|mlp)/\w+/kernel", True),
        (r".*", False),
    )
    """Rules (regex of a leaf's slash path, may be pruned), first match wins."""
    controls: tuple[Literal["random", "reinit", "shuffle", "twin"], ...] = ()
    """Trained beside each round: `random`, a random mask with the same counts;
    `reinit`, the same mask on freshly initialised weights; `shuffle`, the same mask
    permuted within each layer; `twin`, the round again on other batches, for its
    stability (linear mode connectivity, Frankle et al., arXiv:1912.05671)."""

    @pydantic.field_validator("density_weights", mode="before")
    @classmethod
    def _by_name(cls, value):
        # YAML reads the number of a block as one.
        if isinstance(value, Mapping):
            return {str(name): weight for name, weight in value.items()}
        return value

    @pydantic.field_validator("pattern", mode="before")
    @classmethod
    def _as_written(cls, value):
        return pattern_as_written(value)

    @pydantic.model_validator(mode="after")
    def _one_way_to_say_how_much(self):
        ways = {
            "sparsities": self.sparsities is not None,
            "fraction_per_round and rounds": self.fraction_per_round is not None,
            "structured": bool(self.structured),
            "masks_from": self.masks_from is not None and not self.structured,
            "a pattern N:M": ":" in self.pattern,
        }
        if sum(ways.values()) != 1:
            raise ValueError("give one of " + ", ".join(ways))
        if (self.fraction_per_round is None) != (self.rounds is None):
            raise ValueError("fraction_per_round and rounds go together")
        if self.sparsities is not None:
            pairs = zip(self.sparsities, self.sparsities[1:], strict=False)
            if not self.sparsities or any(a >= b for a, b in pairs):
                raise ValueError("sparsities must rise from round to round")
        if ":" in self.pattern:
            keep, of = map(int, self.pattern.split(":"))
            if keep >= of:
                raise ValueError(f"pattern: {self.pattern} prunes nothing; N < M")
        one_only = self.schedule != "iterative"
        if one_only and (self.fraction_per_round or len(self.targets()) > 1):
            raise ValueError(f"{self.schedule} takes one sparsity")
        return self._check_structured()

    def _check_structured(self):
        """Refuses what says how weights are zeroed where they are cut out."""
        if not self.structured:
            return self
        meaningless = ("schedule", "criterion", "pattern", "scope", "allocation")
        for name in (*meaningless, "reconstruction", "rewind", "controls"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: structured rounds have none; leave it out")
        return self

    @pydantic.model_validator(mode="after")
    def _parts_fit_together(self):
        is_unstructured = self.pattern == "unstructured"
        if self.schedule in ("gradual", *_DYNAMIC):
            if self.masks_from is not None:
                raise ValueError(f"masks_from: {self.schedule} makes masks of its own")
            if "twin" in self.controls:
                raise ValueError(f"controls: {self.schedule} has no twin")
        elif self.updates != Updates():
            raise ValueError(f"updates: {self.schedule} has none; leave them out")
        of_others = (
            "drop_fraction" if self.schedule == "gradual" else "initial_sparsity"
        )
        if getattr(self.updates, of_others) != getattr(Updates(), of_others):
            raise ValueError(
                f"updates.{of_others}: {self.schedule} has none; leave it out"
            )
        if (self.allocation == "weighted") != bool(self.density_weights):
            raise ValueError("allocation weighted and density_weights go together")
        for name in ("owl_outlier", "owl_spread"):
            default = type(self).model_fields[name].default
            if self.allocation != "owl" and getattr(self, name) != default:
                raise ValueError(f"{name}: only allocation owl has it; leave it out")
        if self.schedule != "iterative" and self.rewind != Rewind():
            raise ValueError(f"rewind: {self.schedule} does not rewind; leave it out")
        if self.masks_from is not None and not self.structured:
            for name in ("criterion", "allocation", "scope", "pattern"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: the masks are given; leave it out")
        if self.allocation == "owl" and len(self.targets()) > 1:
            raise ValueError(
                "allocation: owl takes one sparsity; what it gives a layer may fall "
                "from round to round"
            )
        if not is_unstructured and self.scope == "row":
            raise ValueError(f"pattern: {self.pattern} does not go with scope row")
        if ":" in self.pattern and (self.scope or self.allocation):
            raise ValueError(
                f"pattern: {self.pattern} says which weights are ranked together; "
                "leave scope and allocation out"
            )
        if self.scope == "global" and self.allocation not in (None, "global"):
            raise ValueError(f"allocation: {self.allocation} needs scope layer or row")
        if self.criterion == "sparsegpt":
            if self.scope not in (None, "layer") or self.allocation == "global":
                raise ValueError("sparsegpt ranks within a layer: scope layer")
            if "x" in self.pattern:
                raise ValueError("sparsegpt prunes unstructured or N:M")
        if self.criterion == "movement" and self.schedule not in (
            "iterative",
            "gradual",
        ):
            raise ValueError("movement needs training before it prunes")
        if self.schedule in _DYNAMIC and (
            not is_unstructured or self.criterion not in ("magnitude", "random")
        ):
            raise ValueError(
                f"{self.schedule} starts from an unstructured mask by magnitude or "
                "random"
            )
        if self.schedule == "gradual":
            if not is_unstructured or self.criterion in ("wanda", "sparsegpt"):
                raise ValueError(
                    "gradual prunes unstructured, by magnitude, random, taylor or "
                    "movement"
                )
            if self.updates.initial_sparsity > self.targets()[-1]:
                raise ValueError(
                    f"updates.initial_sparsity: {self.updates.initial_sparsity} is "
                    f"more than the sparsity to end with, {self.targets()[-1]}"
                )
            if self.ranked_together != "global" and self.spread in ("global", "owl"):
                raise ValueError("gradual takes allocation uniform, erk or weighted")
        if self.reconstruction is not None and not self.keeps_new_weights:
            raise ValueError(
                "reconstruction: rewinding would undo it; schedule one-shot or "
                "rewind.to none"
            )
        return self

    @property
    def keeps_new_weights(self) -> bool:
        """Whether weights that a criterion changed are those that train on."""
        return self.schedule == "one-shot" or (
            self.schedule == "iterative" and self.rewind.to == "none"
        )

    @property
    def ranked_together(self) -> Literal["global", "layer", "row"]:
        """`scope`, the default filled in."""
        if self.scope is not None:
            return self.scope
        if "x" in self.pattern and self.criterion in _SCOPES:
            return "layer"
        if self.schedule in _DYNAMIC or self.allocation not in (None, "global"):
            return _SCOPES.get(self.criterion, "layer")
        return _SCOPES.get(self.criterion, "global")

    @property
    def spread(self) -> Allocation:
        """`allocation`, the default filled in."""
        if self.allocation is not None:
            return self.allocation
        if self.ranked_together == "global":
            return "global"
        return "erk" if self.schedule in _DYNAMIC else "uniform"

    def targets(self) -> tuple[float, ...]:
        """The sparsity after each round; none where masks are given or cut along."""
        if self.sparsities is not None:
            return self.sparsities
        if ":" in self.pattern:
            keep, of = map(int, self.pattern.split(":"))
            return (1 - keep / of,)
        if self.fraction_per_round is None:
            return ()
        survive = 1 - self.fraction_per_round
        return tuple(1 - survive**n for n in range(1, self.rounds + 1))
