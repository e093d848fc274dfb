"""Looks for a mesh and a micro-batch that fit, and are fast.

Every mesh that divides the model and the batch is estimated; the compiler judges the
best few. The batch of a step stays as the config says, so the run trains as before.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from gptjax import config, errors, model, sharding
from gptjax.planning import compiling, estimates, topologies

REMATS = ("matmuls", "full")
"""What may be asked of `training.remat`, the fastest first."""

_MARGIN = 1.15
"""How far an estimate may lie above a chip's memory and still be tried."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and a micro-batch, and what is expected of them."""

    settings: config.Run
    axes: dict[str, int]
    estimate: estimates.Estimate

    def overrides(self) -> list[str]:
        """The candidate as arguments of a command."""
        training = self.settings.training
        changed = {f"mesh.{axis}": size for axis, size in self.axes.items()} | {
            "training.accumulation_steps": training.accumulation_steps,
            "training.remat": training.remat,
        }
        return [f"{key}={value}" for key, value in changed.items()]


def candidates(
    settings: config.Run, model_config: model.Config, topology: topologies.Topology
) -> list[Candidate]:
    """All that might fit, the best first: those that should fit, by the least step.

    Where several slices or hosts are joined by a network, `data` spans them.
    """
    estimator = estimates.Estimator(settings, model_config, topology)
    found = []
    for changed, axes in _variants(settings, topology):
        try:
            estimate = estimator.estimate(changed, axes)
        except errors.UserError:
            continue
        if model_config.kv_heads % axes["tensor"]:
            continue
        limit = topology.usable_bytes
        if limit is None or estimate.bytes <= _MARGIN * limit:
            found.append(Candidate(changed, axes, estimate))
    return sorted(found, key=lambda each: _rank(each, topology.usable_bytes))


def _rank(candidate: Candidate, limit: int | None) -> tuple[Any, ...]:
    time = candidate.estimate.roofline
    training = candidate.settings.training
    # Of equal ones, what splits least.
    return (
        limit is not None and candidate.estimate.bytes > limit,
        0.0 if time is None else round(time.step, 6),
        0.0 if time is None else round(time.interconnect, 6),
        training.accumulation_steps,
        candidate.axes["tensor"],
        candidate.axes["fsdp"],
        candidate.estimate.bytes,
    )


def _variants(
    settings: config.Run, topology: topologies.Topology
) -> Iterator[tuple[config.Run, dict[str, int]]]:
    batch = settings.training.batch_sequences
    # How a sequence is split is part of the recipe, as its length is.
    fixed = dict.fromkeys(sharding.AXES, 1) | {
        axis: size for axis, size in settings.mesh if axis == "context"
    }
    devices = topology.devices // math.prod(fixed.values())
    for tensor in _divisors(devices):
        for fsdp in _divisors(devices // tensor):
            data = devices // tensor // fsdp
            if data % topology.nodes:
                continue
            axes = fixed | {"data": data, "fsdp": fsdp, "tensor": tensor}
            for parts in _divisors(batch):
                if batch // parts % (data * fsdp) or parts & (parts - 1):
                    continue
                for remat in REMATS:
                    yield _changed(settings, axes, parts, remat), axes


def _changed(
    settings: config.Run, axes: dict[str, int], parts: int, remat: str
) -> config.Run:
    training = settings.training.model_copy(
        update={"accumulation_steps": parts, "remat": remat}
    )
    mesh = settings.mesh.model_copy(update=axes)
    return settings.model_copy(update={"training": training, "mesh": mesh})


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def search(
    settings: config.Run,
    model_config: model.Config,
    topology: topologies.Topology,
    *,
    compiles: int,
    judge: Callable[[config.Run], Any],
    tell: Callable[[str], None],
) -> list[tuple[Candidate, Any]]:
    """The candidates that fit, as the compiler says, the fastest first.

    Args:
      compiles: how many are compiled at most; the search ends with the second that
        fits.
      judge: a config -> what is known of its compiled step, with `fits` and `step`; may
        raise `compiling.OutOfMemory`.
      tell: is given lines about the progress.

    Raises:
      Killed: this machine cannot judge, which says nothing of the other.
    """
    ranked = candidates(settings, model_config, topology)
    tell(f"{len(ranked)} meshes and micro-batches might fit; {compiles} are compiled")
    fitting = []
    # Similar ones fit or do not fit together: each that does not fit rules out those
    # that are estimated to need as much.
    ceiling = float("inf")
    tried = 0
    for candidate in ranked:
        if tried == compiles or len(fitting) == 2:
            break
        if candidate.estimate.bytes >= ceiling:
            continue
        name = " ".join(candidate.overrides())
        tried += 1
        tell(f"{tried}/{compiles} {name}")
        try:
            judged = judge(candidate.settings)
        except compiling.Killed:
            raise
        except errors.UserError as error:
            tell(str(error))
            continue
        except compiling.OutOfMemory as refused:
            judged, used = None, refused.used
        else:
            used = judged.used
        fits = judged is not None and judged.fits
        size = "" if used is None else f"needs {used / 1e9:.1f} GB of a device: "
        tell(size + ("fits" if fits else "does not fit"))
        if fits:
            fitting.append((candidate, judged))
        else:
            ceiling = candidate.estimate.bytes
    return sorted(fitting, key=lambda pair: pair[1].step_seconds or 0.0)
