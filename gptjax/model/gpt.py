"""`init` and `apply`: a GPT-2 whose blocks are stacked and scanned over.

The params of all blocks lie stacked on a leading axis L, one leaf per kind of
weight, so that tables, masks, checkpoints and compile time do not grow with depth.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gptjax.model import dropout, layers
from gptjax.model.config import Config

Params = dict[str, Any]


@functools.cache
def graphdefs(config: Config, dtype: Any) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """The structure, without weights, of the trunk and of one block."""

    def structure(module):
        abstract = nnx.eval_shape(lambda: module(config, dtype=dtype, rngs=nnx.Rngs(0)))
        return nnx.split(abstract)[0]

    return structure(layers.Trunk), structure(layers.Block)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The module of `graphdef` holding `params`, a pure dict of arrays."""
    return nnx.merge(graphdef, nnx.State(params))


def split_params(params: Params) -> tuple[Params, Params]:
    """The params of the trunk and, stacked on L, those of the blocks."""
    trunk = {name: value for name, value in params.items() if name != "blocks"}
    return trunk, params["blocks"]


def init(key: jax.Array, config: Config) -> Params:
    """Fresh float32 params, as GPT-2 starts: normal weights, zero biases."""

    def weights(module, key):
        instance = module(config, dtype=jnp.float32, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(instance, nnx.Param))

    trunk_key, blocks_key = jax.random.split(key)
    block_keys = jax.random.split(blocks_key, config.n_layer)
    blocks = jax.vmap(functools.partial(weights, layers.Block))(block_keys)
    return {**weights(layers.Trunk, trunk_key), "blocks": blocks}


def shapes(config: Config) -> Params:
    """A tree like `init`'s of `jax.ShapeDtypeStruct`, without making any array."""
    return jax.eval_shape(functools.partial(init, config=config), jax.random.key(0))


def _segment_positions(segments_BT: jax.Array) -> jax.Array:
    """Each token's place within its segment, counted from 0."""
    time_BT = jnp.broadcast_to(jnp.arange(segments_BT.shape[1]), segments_BT.shape)
    starts_BT = jnp.diff(segments_BT, axis=1, prepend=segments_BT[:, :1]) != 0
    return time_BT - jax.lax.cummax(jnp.where(starts_BT, time_BT, 0), axis=1)


def attention_scale(config: Config, layer: jax.Array) -> jax.Array | float:
    """What the attention scores of layer number `layer` are multiplied by."""
    scale = config.head_width**-0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale = scale / (layer + 1)
    return scale


def _keep_matmuls() -> Callable[..., bool]:
    """What of a block the backward pass finds ready: the results of large products.

    Norms, activations, attention weights and dropout are cheaper to recompute than
    to write out and read back: on CPU a step takes nearly a fifth less time this way,
    and a third of the memory.
    """
    policies = jax.checkpoint_policies
    return policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable,
        policies.save_only_these_names(layers.ATTENDED),
    )


def apply(
    config: Config,
    params: Params,
    tokens_BT: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    constrain: Callable[[jax.Array], jax.Array] = lambda x_BTD: x_BTD,
) -> jax.Array:
    """The logits of the next token at every place.

    Args:
      params: as from `init`, of any floating dtype.
      tokens_BT: token ids, 0 <= id < vocab_size, T at most n_positions. A JAX
        gather clamps ids outside that range, so check them before.
      dropout_key: None for no dropout.
      segments_BT: numbers that say which document a token belongs to. Tokens see
        only their own document, and its positions start at 0. None: one document.
      dtype: of the computation between the embeddings and the logits.
      remat: keep nothing of a block but its input for the backward pass, which
        recomputes the rest: about a third more compute for several times less
        memory.
      constrain: applied to the residual stream between blocks; where a mesh is
        used, `sharding.constrain_batch`.

    Returns:
      logits_BTV in float32.

    Raises:
      ValueError: if T exceeds n_positions.
    """
    length = tokens_BT.shape[1]
    if length > config.n_positions:
        raise ValueError(
            f"{length} tokens do not fit the model's n_positions {config.n_positions}"
        )
    causal_TS = jnp.tril(jnp.ones((length, length), bool))
    if segments_BT is None:
        mask_BTS = causal_TS[None]
        positions_BT = jnp.arange(length)[None]
    else:
        mask_BTS = causal_TS[None] & (segments_BT[:, :, None] == segments_BT[:, None])
        positions_BT = _segment_positions(segments_BT)

    trunk_def, block_def = graphdefs(config, dtype)
    trunk_params, blocks_params = split_params(params)
    trunk = merge(trunk_def, trunk_params)

    keys = block_keys = None
    if dropout_key is not None:
        embed_key, blocks_key = jax.random.split(dropout_key)
        keys = embed_key
        block_keys = jax.random.split(blocks_key, (config.n_layer, 3))

    def run_block(x_BTD, per_layer):
        block_params, layer, layer_keys = per_layer
        attn_key, *residual_keys = (None,) * 3 if layer_keys is None else layer_keys
        attend = functools.partial(
            layers.attention,
            mask_BTS=mask_BTS,
            scale=attention_scale(config, layer),
            upcast=config.reorder_and_upcast_attn,
            drop=lambda x: dropout.apply(config.attn_pdrop, x, attn_key),
        )
        block = merge(block_def, block_params)
        return constrain(block(x_BTD, attend, tuple(residual_keys))), None

    x_BTD = trunk.embed_tokens(tokens_BT, positions_BT)
    x_BTD = constrain(dropout.apply(config.embd_pdrop, x_BTD, keys))
    x_BTD, _ = jax.lax.scan(
        jax.checkpoint(
            run_block, policy=None if remat else _keep_matmuls(), prevent_cse=False
        ),
        x_BTD,
        (blocks_params, jnp.arange(config.n_layer), block_keys),
    )
    return trunk.logits(x_BTD)
