"""The model block by block is the model."""

import operator

import jax
import numpy as np

from gptjax import model


def test_blocks_one_after_another_give_the_logits_of_the_whole():
    """A layer's scale, mask or order lost on the way would calibrate another model."""
    config = model.Config(
        vocab_size=31,
        n_positions=12,
        n_embd=8,
        n_head=2,
        n_layer=3,
        scale_attn_by_inverse_layer_idx=True,
        # Streams that vary more than the 0.1 below: a norm loses no digits to it.
        initializer_range=0.3,
    )
    params = model.init(jax.random.key(0), config)
    params["blocks"] = jax.tree.map(lambda x: x + 0.1, params["blocks"])
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 9), 0, 31)
    x_BTD = model.embed(config, params, tokens_BT, compute=model.Compute())
    for layer in range(3):
        block = jax.tree.map(operator.itemgetter(layer), params["blocks"])
        x_BTD, inputs = model.apply_block(
            config, block, x_BTD, layer=layer, compute=model.Compute()
        )
    logits_BTV = model.logits(config, params, x_BTD, compute=model.Compute())
    np.testing.assert_allclose(
        logits_BTV, model.apply(config, params, tokens_BT), rtol=0, atol=1e-5
    )
    assert inputs["attn/out/kernel"].shape == (2, 9, 2, 4)
    assert inputs["attn/qkv/kernel"].shape == inputs["mlp/up/kernel"].shape
    normed_BTD = np.asarray(inputs["mlp/up/kernel"])
    # ln_2's scale and bias are 1.1 and 0.1 here.
    np.testing.assert_allclose(normed_BTD.mean(-1), 0.1, atol=1e-5)
