"""Attention by the formula: the scores of all pairs of tokens, in float32."""

import functools

import jax
import jax.numpy as jnp

from gptjax.model import derivatives, dropout, positions
from gptjax.model.config import Config


def gather(
    q_BHTK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    *,
    mask_BTS: jax.Array,
    scale: jax.Array | float,
    upcast: bool,
    bias_HS: jax.Array | None = None,
    rate: float = 0.0,
    key: dropout.Key | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the softmax is always taken in float32.

    Heads come before time: on CPU the products of many small matrices are faster in
    that order, transposes included. Where H / G heads of queries read one of keys and
    values, all their queries are rows of one matrix.

    Args:
      mask_BTS: bool, True where the query at T may see the key at S; B may be 1.
      scale: what the scores are multiplied by.
      upcast: whether the scores themselves are computed in float32 too (Hugging
        Face's `reorder_and_upcast_attn`).
      bias_HS: float32, added to the scaled scores; None: nothing. Not with fewer heads
        of keys.
      rate, key: of the dropout of attention weights, see `dropout.apply`.

    Returns:
      The gathered values, BHTK.
    """
    queries = q_BHTK.shape[1] // k_BGSK.shape[1]
    whole = q_BHTK.shape
    if queries > 1:
        q_BHTK, mask_BTS = _grouped(q_BHTK, queries), _tiled(mask_BTS, queries)
    found = _gather(upcast, rate, q_BHTK, k_BGSK, v_BGSK, mask_BTS, scale, bias_HS, key)
    return found.reshape(whole)


def _grouped(q_BHTK: jax.Array, queries: int) -> jax.Array:
    """Heads of queries that read the same keys, one below the other."""
    batch, heads, time, width = q_BHTK.shape
    return q_BHTK.reshape(batch, heads // queries, queries * time, width)


def _tiled(mask_BTS: jax.Array, queries: int) -> jax.Array:
    return jnp.tile(mask_BTS, (1, queries, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, bias_HS, key):
    """`gather`, whose derivatives need the weights once and no maximum.

    Dao et al., "FlashAttention", 2022, arXiv:2205.14135, appendix B.2.
    """
    return _gathered(
        upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, bias_HS, key
    )[0]


def _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale, bias_HS):
    if upcast:
        q_BHTK, k_BHSK = q_BHTK.astype(jnp.float32), k_BHSK.astype(jnp.float32)
    scores_BHTS = jnp.einsum("BHTK,BHSK->BHTS", q_BHTK, k_BHSK).astype(jnp.float32)
    scores_BHTS = scores_BHTS * scale
    if bias_HS is not None:
        scores_BHTS += bias_HS[None, :, None]
    # The lowest finite number and not -inf: a query that sees no key (padding) then
    # gathers an average instead of NaN, which would reach the gradients.
    lowest = jnp.finfo(jnp.float32).min
    scores_BHTS = jnp.where(mask_BTS[:, None], scores_BHTS, lowest)
    return scores_BHTS


def _gathered(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, bias_HS, key):
    scores_BHTS = _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale, bias_HS)
    highest_BHT = scores_BHTS.max(-1)
    weights_BHTS = jnp.exp(scores_BHTS - highest_BHT[..., None])
    total_BHT = weights_BHTS.sum(-1)
    dropped_BHTS = dropout.apply(rate, weights_BHTS.astype(v_BHSK.dtype), key)
    out_BHTK = jnp.einsum("BHTS,BHSK->BHTK", dropped_BHTS, v_BHSK)
    # Fewer numbers to divide than there are weights.
    out_BHTK = (out_BHTK / total_BHT[..., None]).astype(v_BHSK.dtype)
    out_BHTK = derivatives.keep(out_BHTK)
    logsumexp_BHT = derivatives.keep(highest_BHT + jnp.log(total_BHT))
    operands = (q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, bias_HS, key)
    return out_BHTK, (operands, out_BHTK, logsumexp_BHT)


def _gather_slopes(upcast, rate, kept, slope_BHTK):
    operands, out_BHTK, logsumexp_BHT = kept
    q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, bias_HS, key = operands
    scores_BHTS = _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale, bias_HS)
    weights_BHTS = jnp.exp(scores_BHTS - logsumexp_BHT[..., None])
    dropped_BHTS = dropout.apply(rate, weights_BHTS.astype(v_BHSK.dtype), key)
    v_slope_BHSK = jnp.einsum("BHTS,BHTK->BHSK", dropped_BHTS, slope_BHTK)
    inner_BHTS = jnp.einsum("BHTK,BHSK->BHTS", slope_BHTK, v_BHSK)
    inner_BHTS = dropout.apply(rate, inner_BHTS, key).astype(jnp.float32)
    # The mean of `inner_BHTS` under the weights.
    along_BHT = jnp.einsum(
        "BHTK,BHTK->BHT", slope_BHTK, out_BHTK, preferred_element_type=jnp.float32
    )
    scores_slope_BHTS = weights_BHTS * (inner_BHTS - along_BHT[..., None]) * scale
    high = jnp.float32 if upcast else q_BHTK.dtype
    scores_slope_BHTS = scores_slope_BHTS.astype(high)
    q_slope_BHTK = jnp.einsum("BHTS,BHSK->BHTK", scores_slope_BHTS, k_BHSK.astype(high))
    k_slope_BHSK = jnp.einsum("BHTS,BHTK->BHSK", scores_slope_BHTS, q_BHTK.astype(high))
    return (
        q_slope_BHTK.astype(q_BHTK.dtype),
        k_slope_BHSK.astype(k_BHSK.dtype),
        v_slope_BHSK,
        None,
        None,
        None,
        None,
    )


_gather.defvjp(_gathered, _gather_slopes)


def log_weights(
    config: Config,
    layer: jax.Array | int,
    q_BHTK: jax.Array,
    k_BGTK: jax.Array,
    segments_BT: jax.Array | None,
) -> jax.Array:
    """The logarithms of a layer's attention weights, float32 BHTS, by the formula.

    Where a query does not see a key they are large and negative, but finite.
    """
    places_T = jnp.arange(q_BHTK.shape[2])
    mask_BTS = visible(
        places_T[None],
        places_T,
        None if segments_BT is None else (segments_BT, segments_BT),
        window_of(config, layer),
    )
    batch, heads, time, _ = q_BHTK.shape
    scores = _scores(
        True,
        _grouped(q_BHTK, config.queries),
        k_BGTK,
        _tiled(mask_BTS, config.queries),
        scale_of(config, layer),
        bias_of(config, places_T),
    )
    return jax.nn.log_softmax(scores).reshape(batch, heads, time, time)


def scale_of(config: Config, layer: jax.Array | int) -> jax.Array | float:
    """What the attention scores of layer number `layer` are multiplied by."""
    scale = config.head_width**-0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale = scale / (layer + 1)
    return scale


def window_of(config: Config, layer: jax.Array | int) -> jax.Array | None:
    """How many tokens a query of layer number `layer` sees; None: all before it."""
    if config.windows is None:
        return None
    widths_L = [window or config.n_positions for window in config.windows]
    return jnp.asarray(widths_L)[layer]


def bias_of(config: Config, places_S: jax.Array) -> jax.Array | None:
    """What ALiBi adds to scores, HS in float32; None where there is none.

    By the key's place alone: what is the same for all keys of a query changes none of
    its weights.
    """
    slopes_H = positions.slopes(config.positions, config.n_head)
    if slopes_H is None:
        return None
    return slopes_H[:, None] * places_S.astype(jnp.float32)[None]


def visible(
    queries_BT: jax.Array,
    keys_S: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    window: jax.Array | int | None,
) -> jax.Array:
    """Which keys a query may see, bool BTS.

    Args:
      queries_BT, keys_S: places in the sequence; B may be 1.
      segments: which document each query (BT) and each key (BS) belongs to.
      window: how many tokens a query sees, itself included; None: all before it.
    """
    keys_11S, queries_BT1 = keys_S[None, None], queries_BT[..., None]
    mask_BTS = keys_11S <= queries_BT1
    if window is not None:
        mask_BTS &= keys_11S > queries_BT1 - window
    if segments is not None:
        mask_BTS &= segments[0][:, :, None] == segments[1][:, None]
    return mask_BTS
