"""Decoding: prompts in, new tokens out."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import errors, model, sharding
from gptjax.generation import sampling


def generate(
    config: model.Config,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    eos_id: int | None = None,
    seed: int = 0,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
) -> list[list[int]]:
    """What the model says after each prompt.

    All prompts are decoded together, until each has met its end or `max_new_tokens`.
    A row's tokens do not depend on the other rows; where tokens are drawn, they
    depend on the seed and on the row's place in the batch.

    Lengths are rounded up to powers of two before compiling, so that a few compiled
    shapes serve all.

    Args:
      params: of any floating dtype; on the devices of `mesh`, where one is given.
      prompts: token ids, at least one in each; of different lengths if need be.
      max_new_tokens: together with the longest prompt at most n_positions.
      temperature, top_k, top_p: as in Hugging Face's `generate`, but off unless
        given; see `sampling.Sampling`.
      greedy: the likeliest token every time; the three above have no effect then.
      eos_id: the token that ends a sequence; None: none does.
      dtype: of the computation and of the cache.

    Returns:
      A list of the new tokens for each prompt; the last is `eos_id` where it ended.

    Raises:
      UserError: an empty prompt, a token id beyond the vocabulary, more tokens than
        the model has positions for, sampling settings out of range.
    """
    _check(config, prompts, max_new_tokens)
    how = None
    if not greedy:
        how = sampling.Sampling.make(temperature=temperature, top_k=top_k, top_p=top_p)
    if not prompts or max_new_tokens == 0:
        return [[] for _ in prompts]

    # A mesh splits the rows evenly: rows of length 0 make up the number.
    rows = len(prompts)
    if mesh is not None:
        parts = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
        rows = -(-rows // parts) * parts
    slots = min(_power_of_two(max(map(len, prompts))), config.n_positions)
    tokens_BT = np.zeros((rows, slots), np.int32)
    lengths_B = np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, slots - len(prompt) :] = prompt
        lengths_B[row] = len(prompt)
    if mesh is not None:
        split = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
        tokens_BT, lengths_B = sharding.place((tokens_BT, lengths_B), (split, split))

    new_BT, count = _decode(
        config,
        params,
        tokens_BT,
        lengths_B,
        limit=max_new_tokens,
        eos_id=-1 if eos_id is None else eos_id,
        key=jax.random.key(seed),
        how=how,
        new_slots=min(_power_of_two(max_new_tokens), config.n_positions),
        dtype=dtype,
        mesh=mesh,
    )
    new_BT = np.asarray(new_BT)[: len(prompts), : int(count)]
    return [_until(row.tolist(), eos_id) for row in new_BT]


def _check(config, prompts, max_new_tokens):
    if max_new_tokens < 0:
        raise errors.UserError(
            f"max_new_tokens {max_new_tokens}: it may not be below 0"
        )
    for number, prompt in enumerate(prompts):
        where = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if len(prompt) == 0:
            raise errors.UserError(f"{where} is empty; it needs at least 1 token")
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            wrong = min(prompt) if min(prompt) < 0 else max(prompt)
            raise errors.UserError(
                f"{where} holds token id {wrong}, beyond the model's vocab_size "
                f"{config.vocab_size}"
            )
        if len(prompt) + max_new_tokens > config.n_positions:
            raise errors.UserError(
                f"{where} of {len(prompt)} tokens and {max_new_tokens} new ones do not "
                f"fit the model's n_positions {config.n_positions}"
            )


def _power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def _until(tokens: list[int], end: int | None) -> list[int]:
    """The tokens up to the first `end`, which is kept."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@functools.partial(jax.jit, static_argnames=("config", "new_slots", "dtype", "mesh"))
def _decode(
    config,
    params,
    tokens_BT,
    lengths_B,
    *,
    limit,
    eos_id,
    key,
    how,
    new_slots,
    dtype,
    mesh,
):
    """New tokens after prompts that are padded on the left.

    Args:
      tokens_BT, lengths_B: the prompts; a row of length 0 is none and counts as ended.
      limit: how many tokens to make, at most `new_slots`.
      eos_id: -1 for none.
      how: a `Sampling`; None for greedy decoding.

    Returns:
      The new tokens, (B, new_slots), and how many of them were made before all
      sequences had ended.
    """
    sequences, prompt_slots = tokens_BT.shape
    slots = prompt_slots + new_slots
    first_real_B1 = prompt_slots - lengths_B[:, None]
    is_real_BS = jnp.arange(slots)[None] >= first_real_B1
    positions_BT = jnp.maximum(jnp.arange(prompt_slots)[None] - first_real_B1, 0)
    cache = model.init_cache(config, sequences=sequences, slots=slots, dtype=dtype)
    if mesh is not None:
        spec = PartitionSpec(None, sharding.BATCH_AXES, "tensor", None, None)
        cache = jax.lax.with_sharding_constraint(cache, NamedSharding(mesh, spec))

    def advance(tokens_BT, cache, **where):
        return model.apply_cached(
            config,
            params,
            tokens_BT,
            cache,
            is_real_BS=is_real_BS,
            dtype=dtype,
            **where,
        )

    def choose(logits_BV, step):
        if how is None:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        # An entry's random bits hang on its place alone, so that what a row draws
        # does not depend on how many rows there are.
        logits_BV = sampling.filter_logits(logits_BV, how)
        drawn_B = jax.random.categorical(jax.random.fold_in(key, step), logits_BV)
        return drawn_B.astype(jnp.int32)

    def unfinished(carry):
        _, count, has_ended_B, _ = carry
        return (count < limit) & ~has_ended_B.all()

    def step(carry):
        new_BT, count, has_ended_B, cache = carry
        last_B1 = jax.lax.dynamic_slice_in_dim(new_BT, count - 1, 1, axis=1)
        logits_BV, cache = advance(
            last_B1,
            cache,
            start=prompt_slots + count - 1,
            positions_BT=lengths_B[:, None] + count - 1,
        )
        next_B = choose(logits_BV, count)
        new_BT = jax.lax.dynamic_update_slice_in_dim(
            new_BT, next_B[:, None], count, axis=1
        )
        return new_BT, count + 1, has_ended_B | (next_B == eos_id), cache

    logits_BV, cache = advance(tokens_BT, cache, start=0, positions_BT=positions_BT)
    next_B = choose(logits_BV, 0)
    new_BT = jnp.zeros((sequences, new_slots), jnp.int32).at[:, 0].set(next_B)
    has_ended_B = (lengths_B == 0) | (next_B == eos_id)
    new_BT, count, _, _ = jax.lax.while_loop(
        unfinished, step, (new_BT, jnp.int32(1), has_ended_B, cache)
    )
    if mesh is not None:
        # Whole on every host, so that each can read all of it.
        whole = sharding.replicated(mesh)
        new_BT, count = jax.lax.with_sharding_constraint((new_BT, count), whole)
    return new_BT, count
