"""Decoding with a key-value cache."""

from typing import Any

import jax
import jax.numpy as jnp

from gptjax.model import attention, gpt
from gptjax.model.compute import Compute
from gptjax.model.config import Config

Cache = dict[str, jax.Array]


def init_cache(
    config: Config, *, sequences: int, slots: int, dtype: Any = jnp.float32
) -> Cache:
    """An empty cache: `keys` and `values`, each LBHSK with B `sequences`, S `slots`."""
    shape = (config.n_layer, sequences, config.n_head, slots, config.head_width)
    return {"keys": jnp.zeros(shape, dtype), "values": jnp.zeros(shape, dtype)}


def apply_cached(
    config: Config,
    params: gpt.Params,
    tokens_BT: jax.Array,
    cache: Cache,
    *,
    start: jax.Array | int,
    positions_BT: jax.Array,
    is_real_BS: jax.Array,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, Cache]:
    """The logits after the last of some new tokens, and the cache that holds them too.

    Prompts of different lengths are padded on the left, so that all of them end in
    the same slot.

    Args:
      tokens_BT: the new tokens, written to the slots `start` to `start` + T.
      positions_BT: their places in their own sequences, below n_positions.
      is_real_BS: bool, False for the slots that hold padding.

    Returns:
      logits_BV in float32, and the cache.
    """
    slots = cache["keys"].shape[3]
    query_slots_T = start + jnp.arange(tokens_BT.shape[1])
    causal_TS = jnp.arange(slots)[None] <= query_slots_T[:, None]
    mask_BTS = causal_TS[None] & is_real_BS[:, None]

    compute = Compute(dtype=dtype)
    trunk = gpt.trunk(config, params, compute)
    _, block_def = gpt.graphdefs(config, compute)

    def run_block(carry, per_layer):
        # The cache is carried and written in place: as a scanned input and output
        # it would be copied whole for every token.
        x_BTD, cache = carry
        block_params, layer = per_layer

        def attend(q_BHTK, k_BHTK, v_BHTK):
            def update(cache_LBHSK, new_BHTK):
                where = (layer, 0, 0, start, 0)
                new_LBHTK = new_BHTK[None].astype(cache_LBHSK.dtype)
                return jax.lax.dynamic_update_slice(cache_LBHSK, new_LBHTK, where)

            cache["keys"] = update(cache["keys"], k_BHTK)
            cache["values"] = update(cache["values"], v_BHTK)
            return attention.plain(
                q_BHTK,
                cache["keys"][layer],
                cache["values"][layer],
                mask_BTS=mask_BTS,
                scale=attention.scale_of(config, layer),
                upcast=config.reorder_and_upcast_attn,
            )

        cache = dict(cache)
        x_BTD = gpt.merge(block_def, block_params)(x_BTD, attend)
        return (x_BTD, cache), None

    x_BTD = trunk.embed_tokens(tokens_BT, positions_BT)
    (x_BTD, cache), _ = jax.lax.scan(
        run_block, (x_BTD, dict(cache)), (params["blocks"], jnp.arange(config.n_layer))
    )
    return trunk.logits(x_BTD[:, -1]), cache
