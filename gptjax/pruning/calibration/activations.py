"""What enters one block: all that calibration holds of a model's activations."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import errors, model, sharding

# Of a kernel's inputs (tokens, inputs) in float32, a sum over tokens.
Moment = Callable[[jax.Array], jax.Array]


def squares(x: jax.Array) -> jax.Array:
    """The sum of each input's squares, (inputs,)."""
    return jnp.sum(x * x, axis=0)


def products(x: jax.Array) -> jax.Array:
    """The sum of x x^T, (inputs, inputs)."""
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class How:
    """How blocks are computed: what a compiled program of this module depends on."""

    config: model.Config
    dtype: Any
    mesh: Mesh

    @property
    def compute(self) -> model.Compute:
        return model.Compute(dtype=self.dtype, mesh=self.mesh)

    def run_block(self, block, x_BTD, layer):
        """`model.apply_block` of that block."""
        return model.apply_block(
            self.config, block, x_BTD, layer=layer, compute=self.compute
        )


class Stream:
    """The hidden states of all calibration sequences, before one block.

    They lie on the mesh in batches, split over its `data` and `fsdp` axes, and each
    block writes its outputs where its inputs were.
    """

    def __init__(
        self,
        how: How,
        params: Any,
        tokens_NT: np.ndarray,
        *,
        batch_sequences: int,
    ):
        """Embeds the sequences.

        Args:
          batch_sequences: how many pass through a block at once; rounded up to what
            divides over the mesh. The last batch is filled up with sequences that
            count nowhere.
        """
        self.how = how
        self.tokens = tokens_NT.size
        size = sharding.rounded_up(how.mesh, min(batch_sequences, len(tokens_NT)))
        rows = NamedSharding(how.mesh, PartitionSpec(sharding.BATCH_AXES))
        self.batches: list[tuple[jax.Array, jax.Array]] = []
        # Nothing but the embeddings goes to the compiled program.
        trunk = {**params, "blocks": {}}
        for begin in range(0, len(tokens_NT), size):
            own = tokens_NT[begin : begin + size]
            filled = np.pad(own, ((0, size - len(own)), (0, 0)))
            tokens_BT = sharding.place(filled, rows)
            is_real_B = sharding.place(np.arange(size) < len(own), rows)
            x_BTD = _embed(how, trunk, tokens_BT)
            self.batches.append((jax.block_until_ready(x_BTD), is_real_B))

    def advance(self, block: Any, layer: int) -> None:
        """Makes the inputs of a block its outputs."""
        for number, (x_BTD, is_real_B) in enumerate(self.batches):
            x_BTD = _advance(self.how, block, x_BTD, layer)
            # Waiting for each keeps what a block computes for only one in memory.
            self.batches[number] = (jax.block_until_ready(x_BTD), is_real_B)

    def moments(
        self, block: Any, layer: int, names: Iterable[str], moment: Moment
    ) -> dict[str, jax.Array]:
        """The mean over all tokens of a moment of what enters kernels of a block.

        Args:
          names: of kernels, as `model.apply_block` calls them.

        Returns:
          Name -> float32, whole on every device.
        """
        totals = None
        for x_BTD, is_real_B in self.batches:
            totals = _accumulate(
                self.how,
                block,
                x_BTD,
                is_real_B,
                layer,
                totals,
                1 / self.tokens,
                names=tuple(names),
                moment=moment,
            )
            jax.block_until_ready(totals)
        return totals


def check(config: model.Config, tokens_NT: np.ndarray) -> None:
    """Raises a `UserError` unless a model can read these sequences."""
    if tokens_NT.ndim != 2 or not tokens_NT.size:
        raise errors.UserError(
            f"calibration sequences {tokens_NT.shape}: (N, T) token ids are needed"
        )
    if tokens_NT.shape[1] > config.n_positions:
        raise errors.UserError(
            f"calibration sequences of {tokens_NT.shape[1]} tokens, more than the "
            f"model's n_positions {config.n_positions}"
        )
    lowest, highest = int(tokens_NT.min()), int(tokens_NT.max())
    if lowest < 0 or highest >= config.vocab_size:
        raise errors.UserError(
            f"calibration sequences hold token id {lowest if lowest < 0 else highest}, "
            f"beyond the model's vocab_size {config.vocab_size}"
        )


@functools.partial(jax.jit, static_argnums=0)
def _embed(how, trunk, tokens_BT):
    return model.embed(how.config, trunk, tokens_BT, compute=how.compute)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(how, block, x_BTD, layer):
    return how.run_block(block, x_BTD, layer)[0]


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("names", "moment"), donate_argnums=5
)
def _accumulate(how, block, x_BTD, is_real_B, layer, totals, scale, *, names, moment):
    _, inputs = how.run_block(block, x_BTD, layer)
    new = {}
    for name in names:
        x = inputs[name].astype(jnp.float32)
        x = jnp.where(is_real_B.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)
        part = moment(x.reshape(x.shape[0] * x.shape[1], -1)) * scale
        new[name] = part if totals is None else totals[name] + part
    return jax.lax.with_sharding_constraint(new, sharding.replicated(how.mesh))
