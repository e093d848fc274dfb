"""Classifiers of texts and words of every family, beside stock transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import stock
import torch
import transformers

from gptjax import convert, errors, model
from gptjax.convert import families

KINDS = [
    (family, per_token)
    for family, own in families.FAMILIES.items()
    for per_token in own.classifiers
]
LABELS = {0: "good", 1: "bad", 2: "neither"}
PADDING = 1


def _theirs(family, per_token):
    """Transformers' model with random weights; no dropout, which ours has not there."""
    name = families.FAMILIES[family].classifiers[per_token]
    torch.manual_seed(0)
    made = getattr(transformers, name)(
        stock.FAMILIES[family][0](
            **stock.fields(family, 1),
            id2label=LABELS,
            label2id={label: number for number, label in LABELS.items()},
            pad_token_id=PADDING,
            bos_token_id=0,
            eos_token_id=0,
            classifier_dropout=0.0,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize(("family", "per_token"), KINDS)
def test_labels_of_a_family_are_transformers_own(family, per_token, tmp_path):
    """Which token speaks for a padded text, what the head is called, every byte."""
    theirs = _theirs(family, per_token)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = convert.load(tmp_path / "theirs")
    assert config.classifiers == (
        model.Classifier(
            labels=tuple(LABELS.values()), pad_token_id=PADDING, per_token=per_token
        ),
    )
    tokens = np.random.default_rng(0).integers(2, 20, size=(4, 12))
    for row, length in enumerate((12, 7, 1, 4)):
        tokens[row, length:] = PADDING
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
    tokens = jnp.asarray(tokens)
    compute = model.Compute()
    x_BTD = model.hidden(config, params, tokens, compute=compute)
    got = model.label_logits(
        config, params, x_BTD, tokens, classifier="label", compute=compute
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())

    convert.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    before, after = (
        safetensors.numpy.load_file(tmp_path / own / "model.safetensors")
        for own in ("theirs", "ours")
    )
    assert {name: tensor.tobytes() for name, tensor in before.items()} == {
        name: tensor.tobytes() for name, tensor in after.items()
    }
    again, info = type(theirs).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert again.config.id2label == LABELS


def test_a_family_that_labels_no_words_says_so(tmp_path):
    """transformers has no such class, so that nothing could load the export."""
    stock.make("gptj", 0).save_pretrained(tmp_path / "theirs")
    config = dataclasses.replace(
        convert.read_config(tmp_path / "theirs"),
        classifiers=(model.Classifier(labels=("a", "b"), per_token=True),),
    )
    params = model.init(jax.random.key(0), config)
    with pytest.raises(errors.UserError, match="no GPT-J that labels tokens"):
        convert.save(tmp_path / "ours", config, params)
