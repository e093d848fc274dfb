"""The compiled programs of decoding."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gptjax import model, sharding
from gptjax.generation import processors


class State(NamedTuple):
    """Sequences while they grow."""

    tokens_BS: jax.Array
    lengths_B: jax.Array
    has_ended_B: jax.Array
    cache: model.Cache
    """Of all tokens but the last."""


class Rows(NamedTuple):
    """What of sequences stays the same."""

    prompts_B: jax.Array
    limits_B: jax.Array
    keys_B: jax.Array


@jax.jit
def keys(seeds, places):
    def one(seed, place):
        return jax.random.key_data(jax.random.fold_in(jax.random.key(seed), place))

    return jax.vmap(one)(seeds, places)


@functools.partial(
    jax.jit, static_argnames=("config", "rows", "slots", "dtype", "mesh")
)
def empty(config, laid, rows, slots, *, dtype, mesh):
    cache = model.init_cache(config, laid, sequences=rows, slots=slots, dtype=dtype)
    if mesh is None:
        return cache

    def split(leaf):
        spec = (*(None,) * (leaf.ndim - 4), sharding.BATCH_AXES, "tensor")
        place = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.lax.with_sharding_constraint(leaf, place)

    return jax.tree.map(split, cache)


@functools.partial(
    jax.jit, static_argnames=("config", "count", "dtype"), donate_argnames="cache"
)
def prefill(config, laid, tokens_BS, cache, start, *, count, dtype):
    """The cache with so many tokens of all sequences from `start` on."""
    tokens_BT = jax.lax.dynamic_slice_in_dim(tokens_BS, start, count, axis=1)
    return model.extend(config, laid, tokens_BT, cache, start, dtype=dtype)[1]


@functools.partial(
    jax.jit,
    static_argnames=("config", "draws", "kept", "dtype", "mesh"),
    donate_argnames="state",
)
def decode(config, laid, state, rows, how, eos_ids, limit, *, draws, kept, dtype, mesh):
    """Sequences that have grown, and the scores by which.

    Args:
      limit: how many tokens each gets at most.
      kept: of how many the scores are kept; 0: none is.

    Returns:
      The state, and BNV in float32 or None.
    """
    sequences, slots = state.tokens_BS.shape
    rows_B = jnp.arange(sequences)

    def grows_B(state):
        return ~state.has_ended_B & (state.lengths_B < slots)

    def is_open(carry):
        count, state, _ = carry
        return (count < limit) & grows_B(state).any()

    def step(carry):
        count, state, kept_BNV = carry
        tokens_BS, lengths_B, has_ended_B, cache = state
        last_B = tokens_BS[rows_B, lengths_B - 1]
        x_BTD, cache = model.extend(
            config, laid, last_B[:, None], cache, lengths_B - 1, dtype=dtype
        )
        scores_BV = model.scores(config, laid, x_BTD[:, -1], dtype=dtype)
        seen = processors.Seen(tokens_BS, lengths_B, rows.prompts_B, rows.limits_B)
        scores_BV = processors.process(how, scores_BV, seen)
        if draws:
            next_B = drawn(scores_BV, rows.keys_B, lengths_B - rows.prompts_B)
        else:
            next_B = jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)
        if kept:
            kept_BNV = jax.lax.dynamic_update_slice_in_dim(
                kept_BNV, scores_BV[:, None], count, axis=1
            )
        grows = grows_B(state)
        old_B = tokens_BS[rows_B, lengths_B]
        tokens_BS = tokens_BS.at[rows_B, lengths_B].set(jnp.where(grows, next_B, old_B))
        lengths_B += grows
        ends_B = (next_B[:, None] == eos_ids[None]).any(-1) | (
            lengths_B >= rows.limits_B
        )
        has_ended_B |= grows & ends_B
        return count + 1, State(tokens_BS, lengths_B, has_ended_B, cache), kept_BNV

    kept_BNV = None
    if kept:
        kept_BNV = jnp.zeros((sequences, kept, config.vocab_size), jnp.float32)
    _, state, kept_BNV = jax.lax.while_loop(
        is_open, step, (jnp.int32(0), state, kept_BNV)
    )
    if mesh is not None:
        # Whole on every host, so that each can read all of it.
        whole = sharding.replicated(mesh)
        tokens, cache = state[:3], state.cache
        tokens = jax.lax.with_sharding_constraint(tokens, (whole,) * 3)
        state = State(*tokens, cache)
    return state, kept_BNV


def drawn(scores_BV, keys_B, numbers_B):
    """A token of each, by its own key and the token's number."""

    def one(scores_V, key, number):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), number)
        return jax.random.categorical(key, scores_V)

    return jax.vmap(one)(scores_BV, keys_B, numbers_B).astype(jnp.int32)
