"""Every kind of attention against the formula, in float64 numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import errors, model, sharding
from gptjax.model import attention, kernels, plain_attention

CONFIG = model.Config(
    vocab_size=13, n_positions=512, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0.0
)
LENGTH = 256


def documents(sequences):
    """Documents that begin at places that no block of a kernel begins at."""
    starts = np.zeros((sequences, LENGTH), int)
    for row in range(sequences):
        starts[row, [37 + row, 130, 131 + 7 * row]] = 1
    return jnp.asarray(starts.cumsum(1), jnp.int32)


def formula(q, k, v, scale, segments, window):
    """softmax(scale q k^T) v over the keys that a query may see."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = scale * np.einsum("BHTK,BHSK->BHTS", q, k)
    for t in range(LENGTH):
        first = 0 if window is None else max(0, t - window + 1)
        scores[:, :, t, :first] = scores[:, :, t, t + 1 :] = -np.inf
        if segments is not None:
            other = np.asarray(segments)[:, t, None] != np.asarray(segments)
            scores[:, :, t][
                np.broadcast_to(other[:, None], scores[:, :, t].shape)
            ] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("BHTS,BHSK->BHTK", weights / weights.sum(-1, keepdims=True), v)


def mesh_of(**axes):
    sizes = {"data": 1, "fsdp": 1, "tensor": 1, "context": 1} | axes
    return sharding.make_mesh(
        **sizes, devices=jax.devices()[: np.prod([*sizes.values()])]
    )


def inputs(sequences, groups=CONFIG.n_head):
    """Queries, and keys and values of so many heads."""
    return [
        jax.random.normal(key, (sequences, heads, LENGTH, CONFIG.head_width))
        for key, heads in zip(
            jax.random.split(jax.random.key(0), 3),
            (CONFIG.n_head, groups, groups),
            strict=True,
        )
    ]


@pytest.mark.parametrize("kind", ["plain", "splash", "cudnn"])
@pytest.mark.parametrize(
    ("packed", "window"), [(False, None), (True, None), (False, 50), (True, 50)]
)
@pytest.mark.parametrize("axes", [None, {"data": 2, "tensor": 2, "context": 2}])
def test_every_kind_of_attention_is_the_formula(kind, packed, window, axes):
    """A document, a window or a mesh may end in the middle of a kernel's block."""
    sequences = 1 if axes is None else 2
    mesh = None if axes is None else mesh_of(**axes)
    compute = model.Compute(mesh=mesh, attention="plain" if kind == "cudnn" else kind)
    segments = documents(sequences) if packed else None
    q, k, v = inputs(sequences)
    if kind == "cudnn":
        # Without a GPU: what is asked of cuDNN, answered by XLA.
        run = kernels.cudnn(
            CONFIG, compute, LENGTH, window, packed, implementation="xla"
        )
        scale = plain_attention.scale_of(CONFIG, 0)
        got = jax.jit(lambda q, k, v: run(q * scale, k, v, segments))(q, k, v)
    else:
        config = dataclasses.replace(CONFIG, windows=(window, window))
        attend = attention.make(config, compute, length=LENGTH, segments_BT=segments)
        got = jax.jit(lambda q, k, v: attend(q, k, v, 0, None))(q, k, v)
    expected = formula(q, k, v, CONFIG.head_width**-0.5, segments, window)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "splash"])
@pytest.mark.parametrize("axes", [None, {"tensor": 2, "context": 2}])
@pytest.mark.parametrize("layer", [0, 1])
def test_heads_share_keys_and_layers_have_windows_of_their_own(kind, axes, layer):
    """The layer's number is known only while the program runs."""
    mesh = None if axes is None else mesh_of(**axes)
    compute = model.Compute(mesh=mesh, attention=kind)
    config = dataclasses.replace(CONFIG, n_kv_head=2, windows=(None, 50))
    q, k, v = inputs(2, groups=2)
    attend = attention.make(config, compute, length=LENGTH)
    got = jax.jit(attend)(q, k, v, layer, None)
    k, v = (np.repeat(x, 2, axis=1) for x in (k, v))
    window = config.windows[layer]
    expected = formula(q, k, v, CONFIG.head_width**-0.5, None, window)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "drops", "kind"),
    [
        ("cpu", "float32", 256, False, "plain"),
        ("gpu", "bfloat16", 256, False, "cudnn"),
        ("gpu", "float32", 256, False, "plain"),
        ("gpu", "bfloat16", 256, True, "plain"),
        ("tpu", "bfloat16", 256, False, "splash"),
        ("tpu", "float32", 256, False, "splash"),
        ("tpu", "bfloat16", 200, False, "plain"),
    ],
)
def test_the_platform_chooses_its_kernel(
    platform, dtype, length, drops, kind, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    compute = model.Compute(dtype=dtype)
    chosen = attention.choose(CONFIG, compute, length=length, drops=drops)
    assert chosen == kind


@pytest.mark.parametrize(
    ("kind", "length", "drops", "reason"),
    [
        ("cudnn", 256, False, "on NVIDIA GPUs, and not on cpu"),
        ("splash", 200, False, "200 tokens"),
        ("splash", 256, True, "attn_pdrop"),
    ],
)
def test_a_kernel_that_cannot_be_used_says_why(kind, length, drops, reason):
    """Never another kind in silence where one was asked for."""
    compute = model.Compute(attention=kind)
    with pytest.raises(errors.UserError, match=reason):
        attention.choose(CONFIG, compute, length=length, drops=drops)
