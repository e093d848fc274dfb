"""A plan: what a run will take of a machine, from its compiled training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax import config, errors, model
from gptjax.planning import (
    compiling,
    estimates,
    lengths,
    roofline,
    search,
    shapes,
    topologies,
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step on a machine, and what follows from it; bytes of one device.

    Attributes:
      mesh: the size of each axis.
      memory: bytes by kind.
      limit: what a device offers; None of a CPU.
      figures: the compiler's, as `child.compile_step` gives them.
      model_flops: of one device, by the formula, without what is computed twice.
      roofline: None without figures of the chip.
    """

    mesh: dict[str, int]
    memory: dict[str, int]
    limit: int | None
    figures: dict[str, Any]
    model_flops: float
    roofline: roofline.Roofline | None

    @property
    def used(self) -> int:
        """All bytes together."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the memory is enough; a CPU promises nothing and refuses nothing."""
        return self.limit is None or self.used <= self.limit

    @property
    def step_seconds(self) -> float | None:
        """By the roofline."""
        return None if self.roofline is None else self.roofline.step


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known before a job starts.

    Attributes:
      parameters: the model's weights.
      batch: sequences, tokens in each, accumulation steps.
      steps: of the whole run, all its rounds and controls.
      step: of the config as it stands; None where it did not compile.
      problem: why it did not; None, too, where the machine's size was left open and the
        config was not tried.
      suggestions: overrides that fit, the fastest first, each with its step.
    """

    model: str
    topology: topologies.Topology
    compute_dtype: str
    parameters: int
    batch: dict[str, int]
    steps: int
    step: Step | None
    problem: str | None = None
    suggestions: tuple[tuple[list[str], Step], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the config fits as it stands.

        On a machine whose size was left open: whether anything was found that does.
        """
        if self.step is None:
            return self.problem is None and bool(self.suggestions)
        return self.step.fits

    def hours(self, step: Step) -> float | None:
        """Device-hours of the whole run, at the roofline's step."""
        if step.step_seconds is None:
            return None
        return roofline.device_hours(
            step.step_seconds, steps=self.steps, devices=self.topology.devices
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        chip = self.topology.chip

        def of(step):
            if step is None:
                return None
            times = step.roofline
            return dataclasses.asdict(step) | {
                "used": step.used,
                "fits": step.fits,
                "roofline": times and dataclasses.asdict(times) | {"step": times.step},
                "bound": times and times.bound,
                "device_hours": self.hours(step),
            }

        return {
            "model": self.model,
            "topology": self.topology.name,
            "devices": self.topology.devices,
            "chip": chip and dataclasses.asdict(chip),
            "compute_dtype": self.compute_dtype,
            "parameters": self.parameters,
            "batch": self.batch,
            "steps": self.steps,
            "fits": self.fits,
            "problem": self.problem,
            "step": of(self.step),
            "suggestions": [
                {"overrides": overrides, **of(step)}
                for overrides, step in self.suggestions
            ],
            "formulas": {"step": roofline.FORMULA, "mfu": roofline.MFU_FORMULA},
        }


def plan(
    settings: config.Run,
    topology: str,
    *,
    searches: bool | None = None,
    compiles: int = 4,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """What a run will take of a machine.

    Args:
      topology: a name that `topologies.parse` knows; or one without a size (`v5p`),
        for the smallest machine that something fits on.
      searches: whether other meshes and micro-batches are tried; None: where the config
        does not fit.
      compiles: how many of them at most.
      tell: is given lines about the progress.

    Raises:
      UserError: an unknown machine or model, no compiler, a config that does not work
        or is not planned.
    """
    if settings.task.has_classifier:
        raise errors.UserError(
            f"task.kind: {settings.task.kind}; only language modelling is planned, "
            "which takes as much and its loss on top"
        )
    if settings.auxiliary:
        raise errors.UserError(
            "auxiliary: only one task is planned; leave out all but the one whose "
            "batches are largest"
        )
    if settings.distillation is not None:
        raise errors.UserError(
            "distillation: what a teacher takes is not planned; leave it out, and add "
            "its weights and a forward pass, or nothing with cache_top_k"
        )
    if settings.adapter is not None:
        raise errors.UserError(
            "adapter: only the training of all weights is planned; leave it out for an "
            "upper bound"
        )
    model_config = shapes.resolve(settings.model)
    kinds = topologies.sizes(topology)
    if kinds:
        return _smallest(settings, model_config, kinds, compiles=compiles, tell=tell)
    machine = topologies.parse(topology)
    maker = _Maker(settings, model_config, machine)
    step = problem = None
    tell(f"compiling {settings.model} for {machine.name}")
    try:
        step = maker.step(settings)
    except compiling.OutOfMemory as refused:
        problem = _told(refused, machine)
    except errors.UserError as error:
        # A search may find what does work on this machine.
        if not searches:
            raise
        problem = str(error)
    found = maker.plan(step, problem)
    if searches or (searches is None and not found.fits):
        found = maker.search(found, compiles=compiles, tell=tell)
    return found


def _smallest(
    settings: config.Run,
    model_config: model.Config,
    machines: list[topologies.Topology],
    *,
    compiles: int,
    tell: Callable[[str], None],
) -> Plan:
    """The plan for the first machine on which something fits, with its suggestions."""
    found = None
    for machine in machines:
        ranked = search.candidates(settings, model_config, machine)
        limit = machine.usable_bytes
        if not ranked or (limit is not None and ranked[0].estimate.bytes > limit):
            continue
        tell(f"trying {machine.name}")
        maker = _Maker(settings, model_config, machine)
        found = maker.search(maker.plan(None, None), compiles=compiles, tell=tell)
        if found.suggestions:
            return found
    if found is None:
        raise errors.UserError(
            f"--topology: nothing of {settings.model} fits on {machines[-1].name} or "
            "smaller; try more accumulation steps or a smaller batch"
        )
    return found


def _told(refused: compiling.OutOfMemory, machine: topologies.Topology) -> str:
    if refused.used is None or refused.limit is None:
        return f"the compiler found that it does not fit on {machine.name}"
    return (
        f"the compiler found that it needs {refused.used / 1e9:.1f} GB of a device, "
        f"which has {refused.limit / 1e9:.1f} GB"
    )


class _Maker:
    """Steps and plans of one model on one machine."""

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        machine: topologies.Topology,
    ):
        self._settings, self._model, self._machine = settings, model_config, machine
        sizes = estimates.Estimator(settings, model_config, machine)
        self._parameters, self._step_flops = sizes.parameters, sizes.step_flops

    def step(self, settings: config.Run) -> Step:
        """Compiles."""
        machine = self._machine
        figures = compiling.compile_step(settings, self._model, machine)
        held = figures["held"]
        memory = held | {
            "padding": max(figures["arguments"] - sum(held.values()), 0),
            "gradients and temporaries": figures["temporaries"],
            "outputs": figures["outputs"],
            "program": figures["program"],
        }
        model_flops = self._step_flops / machine.devices
        times = None
        if machine.chip is not None:
            sent, network = (
                roofline.collective_bytes(figures["collectives"], key)
                for key in ("sent_bytes", "network_bytes")
            )
            times = roofline.roofline(
                machine.chip,
                compute_dtype=settings.training.compute_dtype,
                flops=figures["flops"],
                model_flops=model_flops,
                memory_traffic=figures["memory_traffic"],
                sent_bytes=sent,
                network_bytes=network,
            )
        return Step(
            mesh=figures["mesh"],
            memory=memory,
            limit=machine.usable_bytes,
            figures=figures,
            model_flops=model_flops,
            roofline=times,
        )

    def plan(self, step: Step | None, problem: str | None) -> Plan:
        """With what is known so far."""
        training = self._settings.training
        return Plan(
            model=self._settings.model,
            topology=self._machine,
            compute_dtype=training.compute_dtype,
            parameters=self._parameters,
            batch={
                "sequences": training.batch_sequences,
                "sequence_tokens": self._settings.data.sequence_tokens,
                "accumulation_steps": training.accumulation_steps,
            },
            steps=lengths.steps(self._settings),
            step=step,
            problem=problem,
        )

    def search(
        self, found: Plan, *, compiles: int, tell: Callable[[str], None]
    ) -> Plan:
        """The plan, with what fits."""
        fitting = search.search(
            self._settings,
            self._model,
            self._machine,
            compiles=compiles,
            judge=self.step,
            tell=tell,
        )
        return dataclasses.replace(
            found,
            suggestions=tuple(
                (candidate.overrides(), step) for candidate, step in fitting
            ),
        )
