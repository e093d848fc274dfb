"""What the model does beyond stock evaluation: dropout, segments, init."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import model, tree
from gptjax.model import dropout

CONFIG = model.Config(
    vocab_size=13, n_positions=12, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5
).without_dropout()
KEY = jax.random.key(0)
# Compiled in one piece, and quickly: each program runs once or twice.
COMPILER = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
apply = jax.jit(
    model.apply,
    static_argnums=0,
    static_argnames="compute",
    compiler_options=COMPILER,
)
init = jax.jit(model.init, static_argnums=1, compiler_options=COMPILER)
TOKENS_BT = jax.random.randint(jax.random.key(1), (2, 12), 0, 13)


@pytest.fixture(scope="module")
def params():
    """Biases and norms away from 0 and 1, so that each of them matters."""
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32),
        init(KEY, CONFIG),
    )


def with_zeros(params, *paths):
    """The params with these leaves zero."""
    return tree.map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path in paths else leaf, params
    )


def with_rates(**rates):
    return dataclasses.replace(CONFIG, **rates)


def test_without_a_key_nothing_is_dropped(params):
    """Evaluation of a checkpoint whose config asks for dropout."""
    config = with_rates(attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    wanted = apply(CONFIG, params, TOKENS_BT)
    got = apply(config, params, TOKENS_BT)
    np.testing.assert_array_equal(got, wanted)


def test_at_rate_0_a_key_changes_nothing(params):
    """A mask scaled by 1 / (1 - 0) that still drops would."""
    wanted = apply(CONFIG, params, TOKENS_BT)
    got = apply(CONFIG, params, TOKENS_BT, dropout_key=KEY)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", ["attn_pdrop", "resid_pdrop", "embd_pdrop"])
def test_what_is_dropped_follows_from_the_key_alone(params, rate):
    """A run that is resumed must drop what the unbroken one drops."""
    config = with_rates(**{rate: 0.5})
    once = apply(config, params, TOKENS_BT, dropout_key=KEY)
    again = apply(config, params, TOKENS_BT, dropout_key=KEY)
    other = apply(config, params, TOKENS_BT, dropout_key=jax.random.key(5))
    plain = apply(config, params, TOKENS_BT)
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3
    assert np.abs(once - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("rate", "paths"),
    [
        # No value reaches the output projection; its bias stays.
        ("attn_pdrop", ["blocks/attn/out/kernel"]),
        # No block adds anything to the residual stream.
        (
            "resid_pdrop",
            [
                "blocks/attn/out/kernel",
                "blocks/attn/out/bias",
                "blocks/mlp/down/kernel",
                "blocks/mlp/down/bias",
            ],
        ),
    ],
)
def test_each_rate_acts_in_its_place(params, rate, paths):
    """At rate 1 a dropped place is as good as cut out, and nothing is NaN."""
    config = with_rates(**{rate: 1.0})
    got = apply(config, params, TOKENS_BT, dropout_key=KEY)
    wanted = apply(CONFIG, with_zeros(params, *paths), TOKENS_BT)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_embedding_s_rate_acts_on_tokens_and_positions(params):
    """At rate 1 every place of every sequence is alike."""
    config = with_rates(embd_pdrop=1.0, attn_pdrop=1.0)
    got = apply(config, params, TOKENS_BT, dropout_key=KEY)
    first = jnp.broadcast_to(got[:1, :1], got.shape)
    np.testing.assert_allclose(got, first, rtol=1e-5, atol=1e-5)


def test_gradients_survive_every_rate(params):
    """0 / 0 hides at a rate of 1."""
    config = with_rates(embd_pdrop=1.0, attn_pdrop=1.0, resid_pdrop=1.0)

    def loss(params):
        return model.apply(config, params, TOKENS_BT, dropout_key=KEY).sum()

    gradients = jax.jit(jax.grad(loss), compiler_options=COMPILER)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    """What survives grows by 1 / (1 - rate); as many fall as the rate says."""
    count = 100_000
    dropped = np.asarray(dropout.apply(rate, jnp.ones(count), KEY))
    assert np.unique(dropped) == pytest.approx([0, 1 / (1 - rate)])
    # Five standard deviations of a binomial.
    spread = 5 * (rate * (1 - rate) / count) ** 0.5
    assert np.mean(dropped == 0) == pytest.approx(rate, abs=spread)


def test_layers_and_sequences_drop_different_places():
    """One mask for all layers would cut the same neurons all the way down."""
    width = 64
    config = dataclasses.replace(
        CONFIG, n_embd=width, embd_pdrop=1.0, resid_pdrop=0.5, vocab_size=width
    )
    fresh = init(KEY, config)
    weights = with_zeros(fresh, "blocks/attn/out/kernel", "blocks/mlp/down/kernel")
    # The stream begins at 0, and all that a layer adds to it is ones: it ends at 0, 2
    # or 4 where none, one or both of the layers let a neuron through. The final norm
    # keeps three values three, and the head shows every neuron.
    weights["blocks"]["mlp"]["down"]["bias"] = jnp.ones((2, width))
    weights["embed"]["tokens"]["embedding"] = jnp.eye(width)
    logits_BTV = apply(config, weights, TOKENS_BT, dropout_key=KEY)
    levels = {len(np.unique(place.round(3))) for place in np.asarray(logits_BTV[0])}
    assert levels == {3}
    places = np.asarray(logits_BTV).round(3).reshape(-1, width)
    assert len(np.unique(places, axis=0)) == len(places)


def test_documents_in_one_sequence_do_not_see_each_other(params):
    """Each gives the logits that it gives alone, positions counted from 0."""
    lengths = [5, 1, 4, 2]
    segments_T = np.repeat([7, 2, 9, 3], lengths)
    segments_BT = jnp.stack([segments_T, np.zeros(12, int)])
    packed_BTV = apply(CONFIG, params, TOKENS_BT, segments_BT=segments_BT)
    starts = np.cumsum([0, *lengths[:-1]])
    for start, length in zip(starts, lengths, strict=True):
        place = slice(start, start + length)
        alone_BTV = apply(CONFIG, params, TOKENS_BT[:1, place])
        np.testing.assert_allclose(
            packed_BTV[0, place], alone_BTV[0], rtol=1e-5, atol=1e-5
        )
    # The other sequence of the batch is one document.
    whole_BTV = apply(CONFIG, params, TOKENS_BT)
    np.testing.assert_allclose(packed_BTV[1], whole_BTV[1], rtol=1e-5, atol=1e-5)


def test_no_token_sees_the_future(params):
    """The mask is the model's whole point."""
    changed_BT = TOKENS_BT.at[:, 7].set((TOKENS_BT[:, 7] + 1) % 13)
    one = apply(CONFIG, params, TOKENS_BT)
    two = apply(CONFIG, params, changed_BT)
    np.testing.assert_array_equal(one[:, :7], two[:, :7])
    assert np.abs(one[:, 7:] - two[:, 7:]).max(axis=(0, 2)).min() > 1e-4


def test_bfloat16_compute_stays_near_and_gives_float32_logits(params):
    """A loss of bfloat16 logits would lose its last digits where they count."""
    exact = apply(CONFIG, params, TOKENS_BT)
    rounded = apply(
        CONFIG, params, TOKENS_BT, compute=model.Compute(dtype=jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05


def test_more_tokens_than_positions_are_refused(params):
    """A gather would clamp and repeat the last position in silence."""
    with pytest.raises(ValueError, match="13 tokens do not fit"):
        apply(CONFIG, params, jnp.zeros((1, 13), jnp.int32))


def test_fresh_weights_are_spread_as_torch_spreads_them():
    """The residual projections start smaller by sqrt(2 L)."""
    sizes = {"vocab_size": 500, "n_positions": 300, "n_embd": 60, "n_head": 3}
    config = model.Config(**sizes, n_layer=4, initializer_range=0.03)
    hf_config = transformers.GPT2Config(**sizes, n_layer=4, initializer_range=0.03)
    torch.manual_seed(0)
    oracle = dict(transformers.GPT2LMHeadModel(hf_config).named_parameters())
    flat = tree.flatten(init(KEY, config))
    for path, name in (
        ("embed/tokens/embedding", "transformer.wte.weight"),
        ("embed/positions/embedding", "transformer.wpe.weight"),
        ("blocks/attn/qkv/kernel", "transformer.h.1.attn.c_attn.weight"),
        ("blocks/attn/out/kernel", "transformer.h.1.attn.c_proj.weight"),
        ("blocks/mlp/up/kernel", "transformer.h.1.mlp.c_fc.weight"),
        ("blocks/mlp/down/kernel", "transformer.h.1.mlp.c_proj.weight"),
    ):
        ours, theirs = flat[path], oracle[name].detach().numpy()
        # Four standard deviations of the estimate from torch's 3,600 weights.
        assert float(ours.std()) == pytest.approx(theirs.std(), rel=0.05), path
        assert abs(float(ours.mean())) < 0.05 * theirs.std()
    for path, leaf in flat.items():
        if path.endswith("bias"):
            assert not leaf.any(), path
        if path.endswith("scale"):
            assert (leaf == 1).all(), path
    # Layers are drawn apart.
    kernel_LDF = flat["blocks/mlp/up/kernel"]
    assert len({float(layer.sum()) for layer in kernel_LDF}) == config.n_layer
