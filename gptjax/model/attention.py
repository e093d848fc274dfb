"""Causal self-attention, by the formula or by the kernel that suits the platform.

`make` is the one place where it is chosen. Every kind keeps documents of a packed
sequence apart, takes local windows, and runs on a mesh whose `context` axis splits
the sequence: queries stay where they are, keys and values are gathered.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax import errors, sharding
from gptjax.model import derivatives, dropout
from gptjax.model.compute import Compute
from gptjax.model.config import Config

# Given q_BHTK, k_BHTK and v_BHTK of a layer, its number, and a key for the dropout of
# attention weights: what each query gathers, as BHTK.
Attend = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array | int, dropout.Key | None], jax.Array
]

_LANES = 128
"""Splash attention takes sequences in blocks of whole TPU vector registers."""
_BLOCKS = (512, 256, _LANES)


def plain(
    q_BHTK: jax.Array,
    k_BHSK: jax.Array,
    v_BHSK: jax.Array,
    *,
    mask_BTS: jax.Array,
    scale: jax.Array | float,
    upcast: bool,
    rate: float = 0.0,
    key: dropout.Key | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the softmax is always taken in float32.

    Heads come before time: on CPU the products of many small matrices are faster in
    that order, transposes included.

    Args:
      mask_BTS: bool, True where the query at T may see the key at S; B may be 1.
      scale: what the scores are multiplied by.
      upcast: whether the scores themselves are computed in float32 too (Hugging
        Face's `reorder_and_upcast_attn`).
      rate, key: of the dropout of attention weights, see `dropout.apply`.

    Returns:
      The gathered values, BHTK.
    """
    return _gather(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key):
    """`plain`, whose derivatives need the weights once and no maximum.

    Dao et al., "FlashAttention", 2022, arXiv:2205.14135, appendix B.2.
    """
    return _gathered(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key)[0]


def _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale):
    if upcast:
        q_BHTK, k_BHSK = q_BHTK.astype(jnp.float32), k_BHSK.astype(jnp.float32)
    scores_BHTS = jnp.einsum("BHTK,BHSK->BHTS", q_BHTK, k_BHSK).astype(jnp.float32)
    scores_BHTS = scores_BHTS * scale
    # The lowest finite number and not -inf: a query that sees no key (padding) then
    # gathers an average instead of NaN, which would reach the gradients.
    lowest = jnp.finfo(jnp.float32).min
    scores_BHTS = jnp.where(mask_BTS[:, None], scores_BHTS, lowest)
    return scores_BHTS


def _gathered(upcast, rate, q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key):
    scores_BHTS = _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale)
    highest_BHT = scores_BHTS.max(-1)
    weights_BHTS = jnp.exp(scores_BHTS - highest_BHT[..., None])
    total_BHT = weights_BHTS.sum(-1)
    dropped_BHTS = dropout.apply(rate, weights_BHTS.astype(v_BHSK.dtype), key)
    out_BHTK = jnp.einsum("BHTS,BHSK->BHTK", dropped_BHTS, v_BHSK)
    # Fewer numbers to divide than there are weights.
    out_BHTK = (out_BHTK / total_BHT[..., None]).astype(v_BHSK.dtype)
    out_BHTK = derivatives.keep(out_BHTK)
    logsumexp_BHT = derivatives.keep(highest_BHT + jnp.log(total_BHT))
    operands = (q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key)
    return out_BHTK, (operands, out_BHTK, logsumexp_BHT)


def _gather_slopes(upcast, rate, kept, slope_BHTK):
    operands, out_BHTK, logsumexp_BHT = kept
    q_BHTK, k_BHSK, v_BHSK, mask_BTS, scale, key = operands
    scores_BHTS = _scores(upcast, q_BHTK, k_BHSK, mask_BTS, scale)
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
    )


_gather.defvjp(_gathered, _gather_slopes)


def log_weights(
    q_BHTK: jax.Array,
    k_BHSK: jax.Array,
    segments_BT: jax.Array | None,
    *,
    scale: jax.Array | float,
) -> jax.Array:
    """The logarithms of attention weights, float32 BHTS, by the plain formula.

    Where a query does not see a key they are large and negative, but finite.
    """
    places_T = jnp.arange(q_BHTK.shape[2])
    segments = None if segments_BT is None else (segments_BT, segments_BT)
    mask_BTS = visible(places_T, places_T, segments, None)
    scores_BHTS = _scores(True, q_BHTK, k_BHSK, mask_BTS, scale)
    return jax.nn.log_softmax(scores_BHTS)


def scale_of(config: Config, layer: jax.Array | int) -> jax.Array | float:
    """What the attention scores of layer number `layer` are multiplied by."""
    scale = config.head_width**-0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale = scale / (layer + 1)
    return scale


def visible(
    queries_T: jax.Array,
    keys_S: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    window: int | None,
) -> jax.Array:
    """Which keys a query may see, bool BTS; B is 1 without segments.

    Args:
      queries_T, keys_S: places in the sequence.
      segments: which document each query (BT) and each key (BS) belongs to.
      window: how many tokens a query sees, itself included; None: all before it.
    """
    mask_BTS = (keys_S[None] <= queries_T[:, None])[None]
    if window is not None:
        mask_BTS &= (keys_S[None] > queries_T[:, None] - window)[None]
    if segments is not None:
        mask_BTS &= segments[0][:, :, None] == segments[1][:, None]
    return mask_BTS


def choose(config: Config, compute: Compute, *, length: int, drops: bool) -> str:
    """The kind of attention that `compute` stands for: plain, cudnn or splash.

    `auto` takes cuDNN's fused attention on NVIDIA GPUs and splash attention on TPUs,
    which never hold the scores of all pairs of tokens, wherever they can do what is
    asked, and the plain formula elsewhere.

    Args:
      length: T.
      drops: whether attention weights are dropped, which no kernel does.

    Raises:
      UserError: a kernel that was asked for and that cannot do it, and why.
    """
    kernels = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}
    if compute.attention == "plain":
        return "plain"
    if compute.attention == "auto":
        kind = kernels.get(compute.platform)
        fits = kind is not None and not _reasons(config, compute, kind, length, drops)
        return kind if fits else "plain"
    if reasons := _reasons(config, compute, compute.attention, length, drops):
        raise errors.UserError(
            f"attention: {compute.attention} cannot be used here: {reasons[0]}; "
            "plain can"
        )
    return compute.attention


def _reasons(
    config: Config, compute: Compute, kind: str, length: int, drops: bool
) -> list[str]:
    """What keeps a kernel from being used."""
    found = []
    if compute.time_axis(length) is None:
        found.append(f"{length} tokens do not divide over the mesh's context axis")
    if drops:
        found.append("it drops no attention weights (attn_pdrop of the model)")
    if kind == "cudnn":
        if compute.platform not in ("gpu", "cuda"):
            found.append(f"it runs on NVIDIA GPUs, and not on {compute.platform}")
        if compute.dtype not in (jnp.bfloat16, jnp.float16):
            found.append(f"it computes in bfloat16, and not in {compute.dtype}")
        if config.head_width % 8 or config.head_width > 128:
            found.append(
                f"heads are {config.head_width} wide, and not a multiple of 8 up to 128"
            )
    elif length % (_LANES * compute.parts("context")):
        found.append(
            f"sequences of {length} tokens are no multiple of {_LANES} on each device"
        )
    return found


def make(
    config: Config,
    compute: Compute,
    *,
    length: int,
    segments_BT: jax.Array | None = None,
    window: int | None = None,
    drops: bool = False,
) -> Attend:
    """The attention of a model over whole sequences, of the kind `choose` gives.

    Args:
      length: T.
      segments_BT: which document a token belongs to; None: all to one.
      window: how many tokens a query sees, itself included; None: all before it.
      drops: whether attention weights are dropped, at the config's `attn_pdrop`.

    Raises:
      UserError: as `choose`.
    """
    kind = choose(config, compute, length=length, drops=drops)
    if kind == "plain":
        return _plain(config, compute, length, segments_BT, window)
    make_kernel = {"cudnn": _cudnn, "splash": _splash}[kind]
    kernel = make_kernel(config, compute, length, window, segments_BT is not None)

    def attend(q_BHTK, k_BHTK, v_BHTK, layer, key):
        del key
        # Kernels take no scale that differs from layer to layer.
        scaled_BHTK = (q_BHTK * scale_of(config, layer)).astype(q_BHTK.dtype)
        return kernel(scaled_BHTK, k_BHTK, v_BHTK, segments_BT)

    return attend


def _plain(config, compute, length, segments_BT, window) -> Attend:
    places_T = jnp.arange(length)
    segments = None if segments_BT is None else (segments_BT, segments_BT)
    mask_BTS = visible(places_T, places_T, segments, window)

    def split(x_BHTK, *, time):
        if compute.parts("context") == 1:
            return x_BHTK
        return compute.constrain(x_BHTK, P(sharding.BATCH_AXES, "tensor", time, None))

    def attend(q_BHTK, k_BHTK, v_BHTK, layer, key):
        return plain(
            split(q_BHTK, time=compute.time_axis(length)),
            split(k_BHTK, time=None),
            split(v_BHTK, time=None),
            mask_BTS=mask_BTS,
            scale=scale_of(config, layer),
            upcast=config.reorder_and_upcast_attn,
            rate=config.attn_pdrop,
            key=key,
        )

    return attend


def _cudnn(config, compute, length, window, has_segments, *, implementation="cudnn"):
    """cuDNN's fused attention, `jax.nn.dot_product_attention`, on each device."""
    del config
    is_whole = compute.parts("context") == 1 and not has_segments

    def local(q_BHTK, k_BHSK, v_BHSK, queries_BT, keys_BS):
        how: dict[str, Any] = {"is_causal": True}
        if window is not None:
            how["local_window_size"] = (window - 1, 0)
        if not is_whole:
            # It cannot know by itself where this device's queries stand.
            here = q_BHTK.shape[2]
            start = here * jax.lax.axis_index("context") if compute.devices > 1 else 0
            segments = (queries_BT, keys_BS) if has_segments else None
            mask_BTS = visible(
                start + jnp.arange(here), jnp.arange(length), segments, window
            )
            how = {"mask": mask_BTS[:, None]}
        q_BTHK, k_BSHK, v_BSHK = (
            jnp.moveaxis(x, 1, 2) for x in (q_BHTK, k_BHSK, v_BHSK)
        )
        out_BTHK = jax.nn.dot_product_attention(
            q_BTHK, k_BSHK, v_BSHK, scale=1.0, implementation=implementation, **how
        )
        return jnp.moveaxis(out_BTHK, 2, 1)

    return _on_mesh(compute, local)


def _splash(config, compute, length, window, has_segments):
    """Splash attention, a Pallas kernel of JAX's for TPUs; interpreted elsewhere."""
    # Imported here: Pallas takes long to import, and TPUs alone need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    heads, times = compute.parts("tensor"), compute.parts("context")
    block_q, block_kv = (
        next(size for size in _BLOCKS if part % size == 0)
        for part in (length // times, length)
    )
    shape = (length, length)
    mask = (
        masks.CausalMask(shape, shard_count=times)
        if window is None
        else masks.LocalMask(shape, (window - 1, 0), 0, shard_count=times)
    )
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * config.n_head),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=heads,
        q_seq_shards=times,
        # Both residuals of the kernel, so that the backward pass need not run it again.
        residual_checkpoint_name=derivatives.KEPT,
        interpret=compute.platform != "tpu",
    )

    def local(kernel, q_BHTK, k_BHSK, v_BHSK, queries_BT, keys_BS):
        segments = kernels.SegmentIds(queries_BT, keys_BS) if has_segments else None
        return jax.vmap(kernel)(q_BHTK, k_BHSK, v_BHSK, segments)

    if compute.devices == 1:
        return _on_mesh(compute, lambda *arrays: local(kernel, *arrays))
    spec = kernel.manual_sharding_spec(
        NamedSharding(compute.mesh, P("tensor", "context"))
    )
    return _on_mesh(compute, local, kernel, spec)


def _on_mesh(compute, local, *leading):
    """`local` on each device's queries and all keys of its sequences and heads.

    Args:
      local: a function of q_BHTK, k_BHSK, v_BHSK and the segments of each, BT and BS.
      leading: a first argument of its own and that one's PartitionSpecs, if any.

    Returns:
      A function of q, k, v BHTK and segments_BT or None.
    """

    def run(q_BHTK, k_BHTK, v_BHTK, segments_BT):
        if segments_BT is None:  # not read then
            segments_BT = jnp.zeros((q_BHTK.shape[0], q_BHTK.shape[2]), jnp.int32)
        arrays = (q_BHTK, k_BHTK, v_BHTK, segments_BT, segments_BT)
        if compute.devices == 1:
            return local(*arrays)
        batch = sharding.BATCH_AXES
        queries = P(batch, "tensor", "context", None)
        keys = P(batch, "tensor", None, None)
        specs = (queries, keys, keys, P(batch, "context"), P(batch, None))
        mapped = jax.shard_map(
            local,
            mesh=compute.mesh,
            in_specs=(*leading[1:], *specs),
            out_specs=queries,
            check_vma=False,  # kernels do not say over which axes they vary
        )
        return mapped(*leading[:1], *arrays)

    return run
