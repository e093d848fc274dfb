"""Decoding with a key-value cache."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gptjax.model import derived, gpt, positions
from gptjax.model import plain_attention as plain
from gptjax.model.compute import Compute
from gptjax.model.config import Config

Cache = dict[str, Any]
"""`keys` and `values`: LBGSK, or BGSK for each layer where a `Laid` has them so."""

_LARGE_LAYER = 8 << 20
"""In bytes: a larger layer is not copied out of a stack for every token."""
_FEW_ROWS = 64
"""Up to so many, a CPU writes rows one after the other: it would copy whole caches to
scatter into them."""


class Laid(NamedTuple):
    """Params as decoding reads them fastest, from `lay_out`."""

    trunk: gpt.Params
    blocks: gpt.Params | tuple[gpt.Params, ...]
    """Stacked, or where layers are large, each for itself."""


def lay_out(config: Config, params: gpt.Params, dtype: Any = jnp.float32) -> Laid:
    """Params laid out for decoding in a dtype, once for all tokens.

    Layers of a few MB lie in the processor's own memory and are read from one stack by
    one small program; large ones would be copied out of it for every token. Params that
    lie so already are not copied.
    """
    flat = jax.tree.leaves(params["blocks"])
    size_bytes = sum(leaf.size for leaf in flat) * jnp.dtype(dtype).itemsize
    apart = size_bytes > config.n_layer * _LARGE_LAYER
    if not apart and all(leaf.dtype == dtype for leaf in jax.tree.leaves(params)):
        trunk = {name: value for name, value in params.items() if name != "blocks"}
        return Laid(trunk, params["blocks"])
    return _laid(config, params, dtype, apart)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _laid(config, params, dtype, apart) -> Laid:
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    blocks = params.pop("blocks")
    if apart:
        blocks = tuple(
            jax.tree.map(lambda leaf, layer=layer: leaf[layer], blocks)
            for layer in range(config.n_layer)
        )
    return Laid(params, blocks)


def init_cache(
    config: Config, laid: Laid, *, sequences: int, slots: int, dtype: Any = jnp.float32
) -> Cache:
    """An empty cache for B `sequences` of at most S `slots` tokens."""
    shape = (sequences, config.kv_heads, slots, config.head_width)

    def empty():
        if isinstance(laid.blocks, tuple):
            return tuple(jnp.zeros(shape, dtype) for _ in laid.blocks)
        return jnp.zeros((config.n_layer, *shape), dtype)

    return {"keys": empty(), "values": empty()}


def cache_bytes(config: Config, *, sequences: int, slots: int, dtype: Any) -> int:
    """What a cache takes: two numbers for each layer, head of keys, width of one and
    slot."""
    width = config.n_layer * config.kv_heads * config.head_width
    return 2 * sequences * slots * width * jnp.dtype(dtype).itemsize


def extend(
    config: Config,
    laid: Laid,
    tokens_BT: jax.Array,
    cache: Cache,
    starts: jax.Array | int,
    *,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, Cache]:
    """What leaves the last block at some new tokens, and the cache that holds them too.

    A token's slot is its place in its own sequence. What stands in later slots is seen
    by none, so that sequences of different lengths are filled up at their ends.

    Args:
      cache: of these sequences, or of more, of which these are the first.
      starts: the place of the first new token: of each sequence (B,), or of all.

    Returns:
      x_BTD, for `scores`, and the cache, written in place where it is donated.
    """
    starts = jnp.asarray(starts)
    positions_BT = jnp.arange(tokens_BT.shape[1])[None] + starts.reshape(-1, 1)
    slots = jax.tree.leaves(cache)[0].shape[-2]
    places_S = jnp.arange(slots)
    bias_HS = plain.bias_of(config, places_S)
    compute = Compute(dtype=dtype)
    outside, block_def = _modules(config, laid, compute)
    # Beyond the last position there is nothing but filling.
    known_BT = jnp.minimum(positions_BT, config.n_positions - 1)
    known_BT = jnp.broadcast_to(known_BT, tokens_BT.shape)
    x_BTD = outside.embed_tokens(tokens_BT, known_BT)

    def run_block(x_BTD, block_params, cache, layer, stack_layer):
        written = {}

        def attend(q_BHTK, k_BGTK, v_BGTK):
            q_BHTK, k_BGTK = (
                positions.rotated(config.positions, x, positions_BT)
                for x in (q_BHTK, k_BGTK)
            )
            for name, new_BGTK in (("keys", k_BGTK), ("values", v_BGTK)):
                written[name] = _written(cache[name], new_BGTK, starts, stack_layer)
            own = [
                written[name] if stack_layer is None else written[name][stack_layer]
                for name in ("keys", "values")
            ]
            own = [each[: tokens_BT.shape[0]] for each in own]
            window = plain.window_of(config, layer)
            return plain.gather(
                q_BHTK,
                *own,
                mask_BTS=plain.visible(positions_BT, places_S, None, window),
                scale=plain.scale_of(config, layer),
                upcast=config.reorder_and_upcast_attn,
                bias_HS=bias_HS,
            )

        block = gpt.merge(block_def, derived.values(block_params))
        x_BTD = block(x_BTD, attend)
        return x_BTD, written

    if isinstance(laid.blocks, tuple):
        layers = []
        for layer, block_params in enumerate(laid.blocks):
            own = {name: each[layer] for name, each in cache.items()}
            x_BTD, own = run_block(x_BTD, block_params, own, layer, None)
            layers.append(own)
        return x_BTD, {name: tuple(own[name] for own in layers) for name in cache}

    def step(carry, per_layer):
        # The cache is carried and written in place: as a scanned input and output
        # it would be copied whole for every token.
        block_params, layer = per_layer
        return run_block(carry[0], block_params, carry[1], layer, layer), None

    layers = (laid.blocks, jnp.arange(config.n_layer))
    (x_BTD, cache), _ = jax.lax.scan(step, (x_BTD, cache), layers)
    return x_BTD, cache


def scores(
    config: Config, laid: Laid, x_BTD: jax.Array, *, dtype: Any = jnp.float32
) -> jax.Array:
    """The scores of the next token, BTV in float32, of what left the last block."""
    return _modules(config, laid, Compute(dtype=dtype))[0].logits(x_BTD)


def _modules(config, laid, compute):
    trunk_def, block_def = gpt.graphdefs(config, compute)
    return gpt.merge(trunk_def, laid.trunk), block_def


def _written(cache, new_BGTK, starts, layer):
    """A cache, BGSK or a layer of LBGSK, with new keys or values from `starts` on."""
    new = new_BGTK.astype(cache.dtype)
    if layer is not None:
        new = new[None]

    def put(cache, new, row, start):
        where = (row, 0, start, 0)
        where = where if layer is None else (layer, *where)
        return jax.lax.dynamic_update_slice(cache, new, where)

    if starts.ndim == 0:
        return put(cache, new, 0, starts)
    rows = range(len(starts))
    axis = new.ndim - 4
    if len(starts) <= _FEW_ROWS and jax.default_backend() == "cpu":
        for row in rows:
            own = jax.lax.slice_in_dim(new, row, row + 1, axis=axis)
            cache = put(cache, own, row, starts[row])
        return cache

    def put_row(cache, new, start):
        one = functools.partial(jnp.expand_dims, axis=axis)
        return jnp.squeeze(put(one(cache), one(new), 0, start), axis)

    first = jax.lax.slice_in_dim(cache, 0, len(starts), axis=axis)
    first = jax.vmap(put_row, (axis, axis, 0), axis)(first, new, starts)
    return jax.lax.dynamic_update_slice_in_dim(cache, first, 0, axis=axis)
