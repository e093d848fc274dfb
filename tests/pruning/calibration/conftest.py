"""A tiny GPT-2 with unlike weights everywhere, and sequences for it to read."""

import jax
import numpy as np
import pytest

from gptjax import model, sharding
from gptjax.pruning import calibration

CONFIG = model.Config(vocab_size=61, n_positions=12, n_embd=16, n_head=4, n_layer=3)


@pytest.fixture
def tiny_config():
    """Its sizes."""
    return CONFIG


@pytest.fixture
def dense_masks():
    """Masks under which all its kernels survive."""
    rules = ((r"blocks/(attn|mlp)/\w+/kernel", True), (r".*", False))
    return calibration.PackedMasks.dense(model.shapes(CONFIG), rules)


@pytest.fixture
def tiny():
    """A function (mesh) -> params placed on it, each time new arrays."""
    start = jax.tree.map(np.asarray, model.init(jax.random.key(0), CONFIG))
    rng = np.random.default_rng(0)
    start = jax.tree.map(
        lambda w: (w + 0.2 * rng.normal(size=w.shape)).astype(np.float32), start
    )

    def params(mesh):
        return sharding.place(
            jax.tree.map(np.array, start), sharding.param_shardings(mesh, start)
        )

    return params


@pytest.fixture
def tokens_NT():
    """Seven sequences, which no batch divides."""
    return np.random.default_rng(1).integers(0, 61, (7, 12)).astype(np.int32)


@pytest.fixture
def one_device():
    """A mesh of one device."""
    return sharding.make_mesh(data=1, devices=jax.devices()[:1])
