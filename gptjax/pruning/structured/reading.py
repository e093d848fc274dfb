"""The model reads the calibration sequences, and what is watched is summed up.

A batch passes through all blocks in one program that scans over them, so that no more
than one block's activations of one batch are there at a time.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import model, sharding

# Of one block: what enters it and what leaves it, both BTD, and what its kernels read.
Watch = Callable[[jax.Array, jax.Array, dict[str, jax.Array]], jax.Array]


def batches(
    tokens_NT: np.ndarray, *, batch_sequences: int, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Sequences BT on the mesh, and for each (B,) 1, or 0 where it fills up a batch.

    Args:
      batch_sequences: rounded up to what the mesh divides.
    """
    size = sharding.rounded_up(mesh, batch_sequences)
    places = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    for start in range(0, len(tokens_NT), size):
        tokens_BT = np.asarray(tokens_NT[start : start + size], np.int32)
        missing = size - len(tokens_BT)
        weights_B = np.pad(np.ones(len(tokens_BT), np.float32), (0, missing))
        tokens_BT = np.pad(tokens_BT, ((0, missing), (0, 0)))
        yield sharding.place((tokens_BT, weights_B), (places, places))


def watch(
    config: model.Config,
    params: Any,
    tokens_NT: np.ndarray,
    of_block: Watch,
    *,
    batch_sequences: int,
    mesh: Mesh,
) -> np.ndarray:
    """The sum over sequences of what `of_block` says of each, block by block.

    Args:
      params: float32, on the mesh.
      of_block: a function of the module's top level (it is compiled by its name);
        gives (B, ...) for the B sequences.

    Returns:
      (L, ...) in float64: float32 sums within a batch, added up on the host.
    """
    total: Any = 0.0
    for tokens_BT, weights_B in batches(
        tokens_NT, batch_sequences=batch_sequences, mesh=mesh
    ):
        found = _watched(config, params, tokens_BT, weights_B, of_block, mesh)
        total = total + np.asarray(found, np.float64)
    return total


@functools.partial(jax.jit, static_argnames=("config", "of_block", "mesh"))
def _watched(config, params, tokens_BT, weights_B, of_block, mesh):
    compute = model.Compute(mesh=mesh)

    def run(x_BTD, per_layer):
        block, layer = per_layer
        y_BTD, inputs = model.apply_block(
            config, block, x_BTD, layer=layer, compute=compute
        )
        seen = of_block(x_BTD, y_BTD, inputs)
        return y_BTD, jnp.tensordot(weights_B, seen, axes=1)

    x_BTD = model.embed(config, params, tokens_BT, compute=compute)
    layers = jnp.arange(config.n_layer)
    _, sums = jax.lax.scan(run, x_BTD, (params["blocks"], layers))
    # Whole on every host, so that each can read it.
    return jax.lax.with_sharding_constraint(sums, sharding.replicated(mesh))
