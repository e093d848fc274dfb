"""Causal self-attention, by the formula or by the kernel that suits the platform.

`make` is the one place where it is chosen. Every kind keeps documents of a packed
sequence apart, takes windows that differ from layer to layer, lets several heads of
queries read one of keys and values, and runs on a mesh whose `context` axis splits the
sequence: queries stay where they are, keys and values are gathered.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from gptjax import errors, sharding
from gptjax.model import dropout, kernels, positions
from gptjax.model import plain_attention as plain
from gptjax.model.compute import Compute
from gptjax.model.config import Config

# Given q_BHTK, k_BGTK and v_BGTK of a layer, its number, and a key for the dropout of
# attention weights: what each query gathers, as BHTK.
Attend = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array | int, dropout.Key | None], jax.Array
]


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
    if isinstance(config.positions, positions.Alibi):
        found.append("it adds no bias to scores, as ALiBi does")
    if kind == "cudnn":
        if compute.platform not in ("gpu", "cuda"):
            found.append(f"it runs on NVIDIA GPUs, and not on {compute.platform}")
        if compute.dtype not in (jnp.bfloat16, jnp.float16):
            found.append(f"it computes in bfloat16, and not in {compute.dtype}")
        if config.head_width % 8 or config.head_width > 128:
            found.append(
                f"heads are {config.head_width} wide, and not a multiple of 8 up to 128"
            )
    elif length % (kernels.LANES * compute.parts("context")):
        found.append(
            f"sequences of {length} tokens are no multiple of {kernels.LANES} on each "
            "device"
        )
    return found


def make(
    config: Config,
    compute: Compute,
    *,
    length: int,
    places_BT: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
    drops: bool = False,
) -> Attend:
    """The attention of a model over whole sequences, of the kind `choose` gives.

    Args:
      length: T.
      places_BT: of the tokens, each in its document; None: from 0 on. B may be 1.
      segments_BT: which document a token belongs to; None: all to one.
      drops: whether attention weights are dropped, at the config's `attn_pdrop`.

    Raises:
      UserError: as `choose`.
    """
    if places_BT is None:
        places_BT = jnp.arange(length)[None]
    kind = choose(config, compute, length=length, drops=drops)
    if kind == "plain":
        attend = _plain(config, compute, length, segments_BT)
    else:
        attend = _fused(config, compute, kind, length, segments_BT)

    def attend_turned(q_BHTK, k_BGTK, v_BGTK, layer, key):
        q_BHTK, k_BGTK = (
            positions.rotated(config.positions, x, places_BT) for x in (q_BHTK, k_BGTK)
        )
        return attend(q_BHTK, k_BGTK, v_BGTK, layer, key)

    return attend_turned


def _fused(config, compute, kind, length, segments_BT) -> Attend:
    make_kernel = {"cudnn": kernels.cudnn, "splash": kernels.splash}[kind]
    windows = config.windows or (None,) * config.n_layer
    # A window is part of a kernel: there is one for each that there is.
    widths = sorted({*windows}, key=lambda width: width or 0)
    ready = [
        make_kernel(config, compute, length, width, segments_BT is not None)
        for width in widths
    ]
    which_L = jnp.asarray([widths.index(width) for width in windows])

    def attend(q_BHTK, k_BGTK, v_BGTK, layer, key):
        del key
        # Kernels take no scale that differs from layer to layer.
        scaled_BHTK = (q_BHTK * plain.scale_of(config, layer)).astype(q_BHTK.dtype)
        k_BHTK, v_BHTK = (
            jnp.repeat(x, config.queries, axis=1) if config.queries > 1 else x
            for x in (k_BGTK, v_BGTK)
        )
        arrays = (scaled_BHTK, k_BHTK, v_BHTK, segments_BT)
        if len(ready) == 1:
            return ready[0](*arrays)
        return jax.lax.switch(which_L[layer], ready, *arrays)

    return attend


def _plain(config, compute, length, segments_BT) -> Attend:
    places_T = jnp.arange(length)
    segments = None if segments_BT is None else (segments_BT, segments_BT)
    bias_HS = plain.bias_of(config, places_T)

    def split(x_BHTK, *, time):
        if compute.parts("context") == 1:
            return x_BHTK
        return compute.constrain(x_BHTK, P(sharding.BATCH_AXES, "tensor", time, None))

    def attend(q_BHTK, k_BGTK, v_BGTK, layer, key):
        window = plain.window_of(config, layer)
        return plain.gather(
            split(q_BHTK, time=compute.time_axis(length)),
            split(k_BGTK, time=None),
            split(v_BGTK, time=None),
            mask_BTS=plain.visible(places_T[None], places_T, segments, window),
            scale=plain.scale_of(config, layer),
            upcast=config.reorder_and_upcast_attn,
            bias_HS=bias_HS,
            rate=config.attn_pdrop,
            key=key,
        )

    return attend
