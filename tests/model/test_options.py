"""Nothing that trades time for memory may change a loss or a gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import model, sharding
from gptjax.training import loss, step

CONFIG = model.Config(
    vocab_size=97, n_positions=256, n_embd=32, n_layer=3, n_head=4
).without_dropout()


@pytest.fixture(scope="module")
def params():
    params = model.init(jax.random.key(0), CONFIG)
    # Fresh heads see next to nothing of each other: larger weights tell more.
    return jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 97, (2, 4, 256)).astype(np.int32)
    labels = np.where(rng.random(tokens.shape) < 0.2, loss.IGNORED, tokens)
    segments = (rng.random(tokens.shape) < 0.02).cumsum(-1).astype(np.int32)
    return {"tokens": tokens, "labels": labels, "segments": segments}


def gradients(config, params, batch, compute, *, key=None):
    if compute.mesh is not None:
        places = sharding.param_shardings(compute.mesh, params)
        params = jax.device_put(params, places)
        batch = jax.device_put(batch, sharding.batch_sharding(compute.mesh))

    @jax.jit
    def run(params, batch):
        return step.mean_gradients(
            config, params, batch, compute=compute, dropout_key=key
        )

    return run(params, batch)


@pytest.fixture(scope="module")
def expected(params, batch):
    """By autodiff of logits that exist all at once, the blocks unrolled."""

    def mean(params):
        total = count = 0
        for tokens, labels, segments in zip(*batch.values(), strict=True):
            logits = model.apply(CONFIG, params, tokens, segments_BT=segments)
            wanted = labels[:, 1:]
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits[:, :-1], jnp.maximum(wanted, 0)
            )
            total += jnp.where(wanted == loss.IGNORED, 0, each).sum()
            count += (wanted != loss.IGNORED).sum()
        return total / count

    return jax.jit(jax.value_and_grad(mean))(params)


def check(found, expected):
    grads, mean = found
    value, slopes = expected
    assert float(mean) == pytest.approx(float(value), rel=1e-5)
    norm = float(optax.tree.norm(slopes))
    for got, wanted in zip(
        jax.tree.leaves(grads), jax.tree.leaves(slopes), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * norm)


@pytest.mark.parametrize(
    "options",
    [
        {"remat": "none", "loss_chunk_tokens": 100},
        {"remat": "full", "unroll": 2, "attention": "splash"},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                {},
                {"remat": "none"},
                {"remat": "full"},
                {"unroll": 2},
                {"loss_chunk_tokens": 100},
                {"attention": "splash"},
            )
        ),
    ],
)
def test_options_change_no_gradient(options, params, batch, expected):
    check(gradients(CONFIG, params, batch, model.Compute(**options)), expected)


@pytest.mark.parametrize("attention", ["plain", "splash"])
@pytest.mark.parametrize(
    "axes",
    [
        {"fsdp": 2, "tensor": 2, "context": 2},
        *(
            pytest.param(axes, marks=pytest.mark.slow)
            for axes in (
                {"fsdp": 4},
                {"tensor": 4},
                {"context": 4},
                {"data": 2, "fsdp": 2, "tensor": 2},
            )
        ),
    ],
    ids=str,
)
def test_meshes_change_no_gradient(axes, attention, params, batch, expected):
    """The loss and the kernels write their collectives out by hand."""
    if attention == "splash" and axes.get("context", 1) > 2:
        pytest.skip("64 queries on a device are no block of splash attention")
    sizes = {"data": 1, "fsdp": 1, "tensor": 1, "context": 1} | axes
    devices = jax.devices()[: int(np.prod([*sizes.values()]))]
    mesh = sharding.make_mesh(**sizes, devices=devices)
    compute = model.Compute(mesh=mesh, attention=attention, loss_chunk_tokens=100)
    check(gradients(CONFIG, params, batch, compute), expected)


@pytest.mark.slow
def test_an_own_head_gets_its_gradient(params, batch):
    """The embedding must not get what belongs to a head that is not tied to it."""
    config = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    untied = {
        **params,
        "head": {"embedding": 0.1 + params["embed"]["tokens"]["embedding"]},
    }
    one = {name: rows[:1] for name, rows in batch.items()}
    grads, _ = gradients(config, untied, one, model.Compute(loss_chunk_tokens=100))

    def mean(params):
        tokens, labels, segments = (rows[0] for rows in one.values())
        logits = model.apply(config, params, tokens, segments_BT=segments)[:, :-1]
        each = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(labels[:, 1:], 0)
        )
        return each.mean(where=labels[:, 1:] != loss.IGNORED)

    for got, wanted in zip(
        jax.tree.leaves(grads), jax.tree.leaves(jax.grad(mean)(untied)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "remat", ["full", pytest.param("none", marks=pytest.mark.slow)]
)
def test_remat_drops_what_was_dropped_the_first_time(remat, params, batch):
    config = dataclasses.replace(
        CONFIG, attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3
    )
    one = {name: rows[:1] for name, rows in batch.items()}
    key = jax.random.key(3)
    first, other = (
        gradients(config, params, one, model.Compute(remat=name), key=key)
        for name in ("matmuls", remat)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
