"""Training a low-rank adapter: the leaves that learn, and the loss through them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gptjax import config as config_lib
from gptjax import errors, masks, model, sharding, tree
from gptjax.training import objectives

_HEADS = ("classifiers/", "taggers/")


@dataclasses.dataclass(frozen=True)
class Adapted(objectives.Through):
    """A task's loss of a frozen model with the adapter that is trained."""

    scaling: float

    def loss(self, config, params, part, scale, *, compute, dropout_key, frozen):
        """The loss of a part; `frozen` is the model's params, and the teacher's."""
        base, *teacher = frozen
        return self.task.loss(
            config,
            model.adapt(base, params, scaling=self.scaling),
            part,
            scale,
            compute=compute,
            dropout_key=dropout_key,
            frozen=teacher[0] if teacher else None,
        )


class Adapter:
    """The adapter of a run: its shapes, its beginning, the model that it makes.

    Attributes:
      scaling: what the product of its matrices is multiplied by.
      shapes: of what is trained: the adapter's leaves, and the heads of tasks.
      differentiated: how many of the model's own weights have a gradient.
      base_places: the shardings of the frozen model.
      base: its params, once they are given.
    """

    def __init__(self, settings: config_lib.Adapter, whole: Any, mesh: Mesh):
        """Loads nothing.

        Args:
          whole: the shapes of the model.

        Raises:
          UserError: rules that no adapter can follow, a rank that is too high.
        """
        self.scaling = settings.alpha / settings.rank
        flat = tree.flatten(whole)
        kernels = _chosen(settings, flat)
        heads = {p: x for p, x in flat.items() if p.startswith(_HEADS)}
        shapes = {**model.adapter_shapes(kernels, settings.rank), **heads}
        self.differentiated = _size(kernels) + _size(heads)
        self.shapes = tree.unflatten(shapes)
        self.places = sharding.param_shardings(mesh, self.shapes)
        self.base_places = sharding.param_shardings(mesh, whole)
        self.base: Any = None

    def objective(self, task: objectives.Objective) -> Adapted:
        """The loss through the adapter."""
        return Adapted(task, self.scaling)

    def start(self, seed: int) -> Any:
        """A fresh adapter that changes nothing yet, and the model's heads.

        As PEFT begins: A uniform within 1 / sqrt(inputs), B zero.
        """
        flat, base = tree.flatten(self.shapes), tree.flatten(self.base)
        keys = jax.random.split(jax.random.key(seed), len(flat))

        def fresh(key, path, leaf):
            if path.endswith("/lora_b"):
                return jnp.zeros(leaf.shape, leaf.dtype)
            most = 1 / math.sqrt(model.inputs_of(leaf))
            return jax.random.uniform(key, leaf.shape, leaf.dtype, -most, most)

        made = {}
        places = tree.flatten(self.places)
        for key, (path, leaf) in zip(keys, flat.items(), strict=True):
            if path in base:
                # A copy: the state is donated, the base is not.
                made[path] = jnp.copy(base[path])
            else:
                make = jax.jit(fresh, static_argnums=(1, 2), out_shardings=places[path])
                made[path] = make(key, path, leaf)
        return tree.unflatten(made)

    def merge(self, trained: Any) -> Any:
        """The params of the whole model; what is frozen are the base's own arrays."""
        return model.merged(model.adapt(self.base, trained, scaling=self.scaling))

    def account(self, whole: Any) -> dict[str, int]:
        """How much was trained, and the zeros of the blocks' kernels before and after.

        Args:
          whole: from `merge`.
        """
        rules = config_lib.Pruning.model_fields["prunable"].default
        before, prunable = masks.zeros(self.base, rules)
        after, _ = masks.zeros(whole, rules)
        return {
            "trained": _size(self.shapes),
            "prunable": prunable,
            "zeros_before": before,
            "zeros_after": after,
        }


def _size(shapes: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _chosen(settings: config_lib.Adapter, flat: dict[str, Any]) -> dict[str, Any]:
    """The kernels that have an adapter, by slash path."""
    rules = tree.match(settings.weights, flat, table="adapter.weights")
    chosen = {path: flat[path] for path, is_chosen in rules.items() if is_chosen}
    if not chosen:
        raise errors.UserError("adapter.weights: the rules leave nothing to adapt")
    for path in chosen:
        if not any(tree.covers(rule, path) for rule, _ in model.KERNELS):
            raise errors.UserError(
                f"adapter.weights: {path} is no kernel of a block; adapters are of "
                + ", ".join(p for p in flat if p.endswith("/kernel"))
            )
    for path, leaf in model.adapter_shapes(chosen, settings.rank).items():
        other = math.prod(leaf.shape[1:]) // settings.rank
        if settings.rank > other:
            raise errors.UserError(
                f"adapter.rank: {settings.rank} is more than {path} has use for, "
                f"{other}"
            )
    return chosen
