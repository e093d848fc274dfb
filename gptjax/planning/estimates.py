"""What a step takes, from sizes alone: rough, and quick enough to try every mesh."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from gptjax import config, masks, model, sharding, tree
from gptjax.model import chunked
from gptjax.planning import lengths, prediction, roofline, topologies
from gptjax.training import optimizer, utilization


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one device.

    Attributes:
      bytes: of memory at most.
      roofline: None without figures of the chip.
    """

    bytes: int
    roofline: roofline.Roofline | None


class Estimator:
    """Estimates for one model and config on many meshes."""

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        topology: topologies.Topology,
    ):
        self._model = model_config
        self._chip, self._platform = topology.chip, topology.platform
        self._params = model.shapes(model_config)
        schedule = optimizer.make_schedule(
            settings.optimizer, steps=max(lengths.schedule_steps(settings), 1)
        )
        chain = optimizer.make_optimizer(settings.optimizer, schedule, self._params)
        self._params_bytes = _bytes(self._params)
        moments = _bytes(jax.eval_shape(chain.init, self._params))
        prunable = ((r".*", False),)
        if settings.pruning is not None:
            prunable = settings.pruning.prunable
        held = _bytes(masks.shapes(self._params, prunable))
        # Moments and masks lie as the params do.
        self._state_share = 1 + (moments + held) / self._params_bytes
        self.parameters = self._params_bytes // 4
        self.step_flops = (
            utilization.flops_per_token(
                model_config,
                parameters=self.parameters,
                sequence_tokens=settings.data.sequence_tokens,
            )
            * settings.training.batch_sequences
            * settings.data.sequence_tokens
        )

    def estimate(self, settings: config.Run, axes: Mapping[str, int]) -> Estimate:
        """Of `settings`, which differ from the first in mesh and `training` alone.

        Args:
          axes: the size of each axis of the mesh.

        Raises:
          UserError: the mesh does not divide the model.
        """
        training, gpt = settings.training, self._model
        dtype = jnp.dtype(training.compute_dtype)
        held = self._held(axes)
        devices = math.prod(axes.values())
        tensor = axes["tensor"]
        sequences = training.batch_sequences // training.accumulation_steps
        sequences //= math.prod(axes[axis] for axis in sharding.BATCH_AXES)
        tokens = sequences * settings.data.sequence_tokens // axes["context"]
        scores = 0.0
        if self._platform != "tpu" or training.attention == "plain":
            # Splash attention never holds the scores of all pairs of tokens.
            scores = sequences * gpt.n_head * settings.data.sequence_tokens**2 / tensor
        heads, mlp = gpt.n_head * gpt.head_width / tensor, gpt.mlp_width / tensor
        mlp *= 2 if gpt.gated_mlp else 1
        # What the backward pass finds ready of a block.
        kept = gpt.n_embd
        if training.remat != "full":
            kept += 4 * heads + mlp + 2 * gpt.n_embd
        block = tokens * dtype.itemsize * (6 * gpt.n_embd + 4 * heads + 3 * mlp)
        weights = self._params_bytes / 4 * dtype.itemsize / tensor / gpt.n_layer
        # Of a chunk, and their gradients.
        logits = 2 * min(4 * tokens * gpt.vocab_size, chunked.CHUNK_BYTES)
        # Gradients, summed and of one part; two layers' weights gathered whole.
        temporaries = (
            held * (1 if training.accumulation_steps == 1 else 2)
            + gpt.n_layer * tokens * dtype.itemsize * kept
            + block
            + 2 * 4 * scores
            + 4 * weights
            + logits
            + dtype.itemsize * 2 * gpt.vocab_size * gpt.n_embd
        )
        memory = int(held * self._state_share + temporaries)
        if self._chip is None:
            return Estimate(memory, None)
        sizes = prediction.Sizes(
            mesh=axes,
            params=self._params,
            layers=gpt.n_layer,
            width=gpt.n_embd,
            tokens=tokens,
            parts=training.accumulation_steps,
            compute_bytes=dtype.itemsize,
        )
        model_flops = self.step_flops / devices
        parts = training.accumulation_steps
        # Each part reads the weights three times and its activations some thirty; the
        # optimizer reads and writes its state.
        traffic = (
            parts * 3 * self._params_bytes / 4 * dtype.itemsize / tensor
            + parts * gpt.n_layer * 30 * tokens * gpt.n_embd * dtype.itemsize
            + 2 * held * (self._state_share + 1)
        )
        return Estimate(
            memory,
            roofline.roofline(
                self._chip,
                compute_dtype=training.compute_dtype,
                flops=model_flops * (4 / 3 if training.remat == "full" else 1),
                model_flops=model_flops,
                memory_traffic=traffic,
                sent_bytes=prediction.sent_bytes(sizes),
            ),
        )

    def _held(self, axes: Mapping[str, int]) -> int:
        """Bytes of the params that one device holds."""
        mesh = AbstractMesh(
            tuple(axes.values()),
            tuple(axes),
            axis_types=(AxisType.Auto,) * len(axes),
        )
        places = tree.flatten(sharding.param_shardings(mesh, self._params))
        return sum(
            math.prod(places[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for path, leaf in tree.flatten(self._params).items()
        )


def _bytes(shapes: object) -> int:
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    )
