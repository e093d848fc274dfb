"""`init` and `apply`: a GPT-2 whose blocks are stacked and scanned over.

The params of all blocks lie stacked on a leading axis L, one leaf per kind of
weight, so that tables, masks, checkpoints and compile time do not grow with depth.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gptjax.model import attention, derivatives, derived, dropout, layers, positions
from gptjax.model import plain_attention as plain
from gptjax.model.compute import DEFAULT, Compute
from gptjax.model.config import Config

Params = dict[str, Any]


@functools.cache
def graphdefs(config: Config, compute: Compute) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """The structure, without weights, of the trunk and of one block."""

    def structure(module):
        abstract = nnx.eval_shape(
            lambda: module(config, compute=compute, rngs=nnx.Rngs(0))
        )
        return nnx.split(abstract)[0]

    return structure(layers.Trunk), structure(layers.Block)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The module of `graphdef` holding `params`, a pure dict of arrays."""
    return nnx.merge(graphdef, nnx.State(params))


def init(key: jax.Array, config: Config) -> Params:
    """Fresh float32 params, as GPT-2 starts: normal weights, zero biases."""

    def weights(module, key):
        instance = module(config, compute=DEFAULT, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(instance, nnx.Param))

    trunk_key, blocks_key = jax.random.split(key)
    block_keys = jax.random.split(blocks_key, config.n_layer)
    blocks = jax.vmap(functools.partial(weights, layers.Block))(block_keys)
    return {**weights(layers.Trunk, trunk_key), "blocks": blocks}


def init_classifier(key: jax.Array, config: Config, name: str) -> Params:
    """Fresh weights of one classifier, as `init` makes them."""
    own = config.classifier(name)
    made = layers.Classifier(
        config, len(own.labels), has_bias=own.per_token, rngs=nnx.Rngs(key)
    )
    return nnx.to_pure_dict(nnx.state(made, nnx.Param))


def shapes(config: Config) -> Params:
    """A tree like `init`'s of `jax.ShapeDtypeStruct`, without making any array."""
    # Traced once: a run asks for it many times. Each caller has a tree of its own.
    return jax.tree.map(lambda leaf: leaf, _shapes(config))


@functools.cache
def _shapes(config: Config) -> Params:
    return jax.eval_shape(lambda: init(jax.random.key(0), config))


def _segment_positions(segments_BT: jax.Array) -> jax.Array:
    """Each token's place within its segment, counted from 0."""
    time_BT = jnp.broadcast_to(jnp.arange(segments_BT.shape[1]), segments_BT.shape)
    starts_BT = jnp.diff(segments_BT, axis=1, prepend=segments_BT[:, :1]) != 0
    return time_BT - jax.lax.cummax(jnp.where(starts_BT, time_BT, 0), axis=1)


def _policy(remat: str) -> Callable[..., bool] | None:
    """What `jax.checkpoint` keeps, by its name in `compute.REMAT`."""
    policies = jax.checkpoint_policies
    return {
        "none": policies.everything_saveable,
        "matmuls": policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable,
            policies.save_only_these_names(derivatives.KEPT),
        ),
        "full": None,
    }[remat]


def hidden(
    config: Config,
    params: Params,
    tokens_BT: jax.Array,
    *,
    compute: Compute,
    dropout_key: dropout.Key | None = None,
    segments_BT: jax.Array | None = None,
    shift_BTD: jax.Array | None = None,
) -> jax.Array:
    """What leaves the last block, BTD; the other arguments are those of `apply`.

    Args:
      shift_BTD: what is added to the embeddings of the tokens, float32; None: nothing.
    """
    return _run(
        config,
        params,
        tokens_BT,
        compute=compute,
        dropout_key=dropout_key,
        segments_BT=segments_BT,
        shift_BTD=shift_BTD,
    )[0]


class Inside(NamedTuple):
    """What goes on in each layer: what a student is to do as its teacher does."""

    states_LBTD: jax.Array | None
    """What leaves the layers' blocks."""
    attention_LBHTS: jax.Array | None
    """The logarithms of the layers' attention weights, float32."""


def hidden_and_inside(
    config: Config,
    params: Params,
    tokens_BT: jax.Array,
    *,
    compute: Compute,
    states: bool,
    attention: bool,
    dropout_key: dropout.Key | None = None,
    segments_BT: jax.Array | None = None,
) -> tuple[jax.Array, Inside]:
    """`hidden`, and what is asked for of the inside, which takes memory in every layer.

    Args:
      states, attention: which are wanted; attention weights are those before dropout.
    """
    return _run(
        config,
        params,
        tokens_BT,
        compute=compute,
        dropout_key=dropout_key,
        segments_BT=segments_BT,
        states=states,
        attends=attention,
    )


def _run(
    config,
    params,
    tokens_BT,
    *,
    compute,
    dropout_key,
    segments_BT,
    shift_BTD=None,
    states=False,
    attends=False,
):
    length = tokens_BT.shape[1]
    if length > config.n_positions:
        raise ValueError(
            f"{length} tokens do not fit the model's n_positions {config.n_positions}"
        )
    positions_BT = (
        jnp.arange(length)[None]
        if segments_BT is None
        else _segment_positions(segments_BT)
    )
    attend = attention.make(
        config,
        compute,
        length=length,
        places_BT=positions_BT,
        segments_BT=segments_BT,
        drops=dropout_key is not None and config.attn_pdrop > 0,
    )

    outside = trunk(config, params, compute)
    block_def = graphdefs(config, compute)[1]

    embed_key = block_keys = scale = None
    if dropout_key is not None:
        (embed_key, blocks_key), scale = dropout.split(dropout_key)
        block_keys = jax.random.split(blocks_key, (config.n_layer, 3))

    def run_block(x_BTD, per_layer):
        block_params, layer, layer_keys = per_layer
        attn_key, *residual_keys = (
            dropout.scaled(key, scale)
            for key in ((None,) * 3 if layer_keys is None else layer_keys)
        )
        block = merge(block_def, derived.values(block_params))
        weights_BHTS = None

        def attend_here(q, k, v):
            nonlocal weights_BHTS
            if attends:
                turned = (
                    positions.rotated(config.positions, x, positions_BT) for x in (q, k)
                )
                weights_BHTS = plain.log_weights(config, layer, *turned, segments_BT)
            return attend(q, k, v, layer, attn_key)

        x_BTD = block(x_BTD, attend_here, tuple(residual_keys))
        x_BTD = compute.split_residual(x_BTD)
        return x_BTD, Inside(x_BTD if states else None, weights_BHTS)

    x_BTD = outside.embed_tokens(tokens_BT, positions_BT)
    if shift_BTD is not None:
        x_BTD += shift_BTD.astype(x_BTD.dtype)
    embed_key = dropout.scaled(embed_key, scale)
    x_BTD = compute.split_residual(dropout.apply(config.embd_pdrop, x_BTD, embed_key))
    x_BTD, inside = jax.lax.scan(
        jax.checkpoint(run_block, policy=_policy(compute.remat), prevent_cse=False),
        x_BTD,
        (params["blocks"], jnp.arange(config.n_layer), block_keys),
        unroll=min(compute.unroll, config.n_layer),
    )
    # Else the loss, which splits time over `tensor`, makes every block do so too.
    return compute.split_residual(x_BTD), inside


def apply(
    config: Config,
    params: Params,
    tokens_BT: jax.Array,
    *,
    compute: Compute = DEFAULT,
    dropout_key: dropout.Key | None = None,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """The logits of the next token at every place.

    Args:
      params: as from `init`, of any floating dtype.
      tokens_BT: token ids, 0 <= id < vocab_size, T at most n_positions. A JAX
        gather clamps ids outside that range, so check them before.
      compute: precision, devices, attention, rematerialization.
      dropout_key: None for no dropout; with a scale of the rates, a `dropout.Scaled`.
      segments_BT: numbers that say which document a token belongs to. Tokens see
        only their own document, and its positions start at 0. None: one document.

    Returns:
      logits_BTV in float32.

    Raises:
      ValueError: if T exceeds n_positions.
      UserError: if `compute.attention` cannot be used.
    """
    x_BTD = hidden(
        config,
        params,
        tokens_BT,
        compute=compute,
        dropout_key=dropout_key,
        segments_BT=segments_BT,
    )
    return logits(config, params, x_BTD, compute=compute)


def logits(
    config: Config, params: Params, x_BTD: jax.Array, *, compute: Compute
) -> jax.Array:
    """The scores of the next token, BTV in float32, of what left the last block."""
    return trunk(config, params, compute).logits(x_BTD)


def label_logits(
    config: Config,
    params: Params,
    x_BTD: jax.Array,
    tokens_BT: jax.Array,
    *,
    classifier: str,
    compute: Compute,
) -> jax.Array:
    """The scores of a classifier's labels, float32.

    Of texts BN, as Hugging Face's `GPT2ForSequenceClassification` has them: by the last
    token that is no padding. Of tokens BTN, as its `GPT2ForTokenClassification` has
    them.

    Args:
      x_BTD: what left the last block.
      tokens_BT: what entered the first.
    """
    own, outside = config.classifier(classifier), trunk(config, params, compute)
    if own.per_token:
        return outside.label_logits(x_BTD, classifier)
    last_B = _last_tokens(tokens_BT, own.pad_token_id)
    x_BD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    return outside.label_logits(x_BD, classifier)


def is_text(config: Config, tokens_BT: jax.Array, classifier: str) -> jax.Array:
    """Whether a place comes no later than its text's last token, bool BT."""
    last_B = _last_tokens(tokens_BT, config.classifier(classifier).pad_token_id)
    return jnp.arange(tokens_BT.shape[1])[None] <= last_B[:, None]


def _last_tokens(tokens_BT: jax.Array, pad_token_id: int | None) -> jax.Array:
    """The place of each text's last token that is no padding; 0 where all are."""
    places_T = jnp.arange(tokens_BT.shape[1])
    if pad_token_id is None:
        return jnp.full(tokens_BT.shape[:1], places_T[-1])
    return jnp.where(tokens_BT != pad_token_id, places_T[None], 0).max(-1)


def trunk(config: Config, params: Params, compute: Compute) -> layers.Trunk:
    """The embeddings, final norm and head, with their weights."""
    own = {name: value for name, value in params.items() if name != "blocks"}
    return merge(graphdefs(config, compute)[0], own)
