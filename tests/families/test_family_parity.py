"""Every family against stock transformers: logits, gradients, bytes."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import stock
import torch

from gptjax import convert, model, tree
from gptjax.convert import names
from gptjax.training import loss as loss_lib


def _close(ours, theirs, name, largest=None):
    """To float32's rounding, relative to the largest number."""
    largest = abs(theirs).max() if largest is None else largest
    np.testing.assert_allclose(
        ours, np.asarray(theirs), rtol=0, atol=2e-5 * largest, err_msg=name
    )


def _tokens(theirs, seed):
    """Tokens at which no ReLU stands within rounding of 0.

    There the gradient jumps, and float32 decides on which side it falls.
    """
    nearest = []
    hooks = [
        each.register_forward_pre_hook(
            lambda module, given: nearest.append(float(given[0].abs().min()))
        )
        for each in theirs.modules()
        if isinstance(each, torch.nn.ReLU)
    ]
    rng = np.random.default_rng(seed)
    while True:
        size = (2, stock.POSITIONS - 3)
        tokens = rng.integers(theirs.config.vocab_size, size=size)
        nearest.clear()
        with torch.no_grad():
            theirs(torch.tensor(tokens))
        if min(nearest, default=1) > 2e-6:
            break
    for hook in hooks:
        hook.remove()
    return tokens


def _gradients(config, params, tokens):
    """Those of the mean loss, and the logits, by one program."""

    def loss(params):
        x_BTD = model.hidden(config, params, tokens, compute=model.Compute())
        total, count = loss_lib.next_token_loss(
            config, params, x_BTD, tokens, compute=model.Compute()
        )
        logits = model.logits(config, params, x_BTD, compute=model.Compute())
        return total / count, logits

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def _check(family, seed, folder):
    theirs = stock.make(family, seed)
    theirs.save_pretrained(folder / "theirs")
    config, params = convert.load(folder / "theirs")
    assert config.family == family
    tokens = _tokens(theirs, seed)
    wanted = theirs(torch.tensor(tokens), labels=torch.tensor(tokens))
    wanted.loss.backward()
    made, logits = _gradients(config, params, tokens)
    _close(logits, wanted.logits.detach(), "logits")
    flat = tree.flatten(made)
    named = dict(theirs.named_parameters())
    # Keys' biases have a true gradient of 0, and so have queries that see one token: a
    # leaf, which holds the values' too, is compared as one.
    gradients = {name: named[_stock_name(name)].grad for name in _names(config)}
    for leaf in names.leaves(config):
        largest = max(float(gradients[name].abs().max()) for name in leaf.names)
        for part in leaf.parts:
            for layer, name in enumerate(part.names):
                own = np.asarray(flat[leaf.path])
                own = part.of_leaf(own[layer] if leaf.is_stacked else own)
                _close(own, gradients[name].numpy(), name, largest)

    convert.save(folder / "ours", config, params, like=folder / "theirs")
    before, after = (
        safetensors.numpy.load_file(folder / own / "model.safetensors")
        for own in ("theirs", "ours")
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.tobytes() == after[name].tobytes(), name
    again, info = stock.FAMILIES[family][1].from_pretrained(
        folder / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    with torch.no_grad():
        assert torch.equal(again.eval()(torch.tensor(tokens)).logits, wanted.logits)


def _names(config):
    return [name for leaf in names.leaves(config) for name in leaf.names]


def _stock_name(name):
    """What transformers 5 calls the tensor in memory."""
    return name.replace("embed_out.", "lm_head.")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", stock.FAMILIES)
def test_a_family_computes_what_transformers_computes(family, seed, tmp_path):
    """Logits, gradients, and not a byte of a weight changed on the way back."""
    _check(family, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [2, 3, *(pytest.param(n, marks=pytest.mark.very_slow) for n in range(4, 20))],
)
@pytest.mark.parametrize("family", stock.FAMILIES)
def test_a_family_does_so_whatever_its_config(family, seed, tmp_path):
    """The same, often."""
    _check(family, seed, tmp_path)
