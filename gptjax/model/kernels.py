"""Attention by the fused kernels of GPUs and TPUs, on each device of a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax import sharding
from gptjax.model import derivatives
from gptjax.model.plain_attention import visible

LANES = 128
"""Splash attention takes sequences in blocks of whole TPU vector registers."""
_BLOCKS = (512, 256, LANES)


def cudnn(config, compute, length, window, has_segments, *, implementation="cudnn"):
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
            places_T = (start + jnp.arange(here))[None]
            mask_BTS = visible(places_T, jnp.arange(length), segments, window)
            how = {"mask": mask_BTS[:, None]}
        q_BTHK, k_BSHK, v_BSHK = (
            jnp.moveaxis(x, 1, 2) for x in (q_BHTK, k_BHSK, v_BHSK)
        )
        out_BTHK = jax.nn.dot_product_attention(
            q_BTHK, k_BSHK, v_BSHK, scale=1.0, implementation=implementation, **how
        )
        return jnp.moveaxis(out_BTHK, 2, 1)

    return _on_mesh(compute, local)


def splash(config, compute, length, window, has_segments):
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
