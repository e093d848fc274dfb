"""`Compute`: how a model is computed, which is not to change what comes out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import sharding

ATTENTION = ("auto", "plain", "cudnn", "splash")
"""How attention is computed, see `attention.choose`."""

REMAT = ("none", "matmuls", "full")
"""What of a block the backward pass finds ready: all of it; the results of its large
products; nothing but the block's input."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """Precision, devices, and what is traded between time and memory.

    But for `dtype`, no choice changes a result beyond rounding. Hashable, so that it
    can be a static argument of `jax.jit`.

    Attributes:
      dtype: of the computation between the embeddings and the logits.
      mesh: the devices; None: wherever the params lie.
      attention: one of `ATTENTION`.
      remat: one of `REMAT`. Norms, activations, attention weights and dropout are
        cheaper to recompute than to write out and read back. `full` takes about a
        third more compute than `none`.
      unroll: how many blocks one turn of the loop over blocks holds.
      loss_chunk_tokens: for how many tokens on a device the loss holds logits at once;
        None: as many as `chunked.CHUNK_BYTES` holds.
    """

    dtype: Any = jnp.float32
    mesh: Mesh | None = None
    attention: str = "auto"
    remat: str = "matmuls"
    unroll: int = 1
    loss_chunk_tokens: int | None = None

    def __post_init__(self):
        # jnp.float32 and dtype("float32") are equal and hash apart.
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))

    @property
    def platform(self) -> str:
        """Of the devices: cpu, gpu or tpu."""
        if self.mesh is None:
            return jax.default_backend()
        return self.mesh.devices.flat[0].platform

    @property
    def devices(self) -> int:
        """How many share the work."""
        return 1 if self.mesh is None else self.mesh.size

    def parts(self, axis: str) -> int:
        """Over how many devices an axis of the mesh splits; 1 without a mesh."""
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def time_axis(self, length: int) -> str | None:
        """The axis of the mesh that splits sequences of a length, if it divides them.

        Training asks for lengths that it divides; a text's last window may be another.
        """
        return None if length % self.parts("context") else "context"

    def constrain(self, array: jax.Array, spec: PartitionSpec) -> jax.Array:
        """The array, split over the mesh as `spec` says."""
        if self.devices == 1:
            return array
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))

    def split_residual(self, x_BTD: jax.Array) -> jax.Array:
        """Keeps the residual stream split over sequences and time alone.

        Without it the partitioner may follow the weights' sharding into the
        activations and move those instead of gathering weights.
        """
        time = self.time_axis(x_BTD.shape[1])
        return self.constrain(x_BTD, PartitionSpec(sharding.BATCH_AXES, time))


DEFAULT = Compute()
"""In float32, wherever the params lie."""
