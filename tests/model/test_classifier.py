"""Stock PyTorch's GPT2ForSequenceClassification is the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, model

PAD = 3


def make_folder(folder, seed, *, labels=3, **fields):
    """A classifier with random weights and shape, saved by stock transformers."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    config = transformers.GPT2Config(
        vocab_size=int(rng.integers(11, 30)),
        n_positions=12,
        n_embd=heads * int(rng.integers(4, 8)),
        n_layer=int(rng.integers(1, 3)),
        n_head=heads,
        tie_word_embeddings=bool(seed % 2),
        id2label={number: f"name {number}" for number in range(labels)},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
        **fields,
    )
    torch.manual_seed(seed)
    oracle = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    oracle.save_pretrained(folder)
    tokens_BT = rng.integers(0, config.vocab_size, (5, 12))
    for row, length in enumerate((12, 7, 1, 0, 9)):
        tokens_BT[row, length:] = PAD
    tokens_BT[4, 4] = PAD  # within a text it is a token like any other
    return oracle, tokens_BT


def logits(config, params, tokens_BT):
    tokens_BT = jnp.asarray(tokens_BT)
    x_BTD = model.hidden(config, params, tokens_BT, compute=model.Compute())
    return model.label_logits(
        config, params, x_BTD, tokens_BT, classifier="label", compute=model.Compute()
    )


@pytest.mark.parametrize("seed", range(6))
def test_logits_of_padded_batches_are_stock_transformers_own(tmp_path, seed):
    """The last token is found by the padding id, on either side of a text's end."""
    oracle, tokens_BT = make_folder(tmp_path, seed)
    config, params = convert.load(tmp_path)
    assert config.classifiers == (
        model.Classifier(labels=("name 0", "name 1", "name 2"), pad_token_id=PAD),
    )
    with torch.no_grad():
        wanted = oracle(input_ids=torch.tensor(tokens_BT)).logits
    got = logits(config, params, tokens_BT)
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-5, rtol=0)


def test_an_export_is_the_checkpoint_again(tmp_path):
    """Byte for byte, and stock transformers reads labels and padding out of it."""
    oracle, tokens_BT = make_folder(tmp_path / "hf", 1)
    config, params = convert.load(tmp_path / "hf")
    convert.save(tmp_path / "again", config, params, like=tmp_path / "hf")
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("hf", "again")
    )
    assert first == second
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "again"
    )
    assert isinstance(again, transformers.GPT2ForSequenceClassification)
    assert again.config.id2label == oracle.config.id2label
    assert again.config.label2id == {"name 0": 0, "name 1": 1, "name 2": 2}
    ids = torch.tensor(tokens_BT)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, oracle(ids).logits)


def test_a_gptjax_folder_keeps_several_classifiers_and_their_names(tmp_path):
    """Stock transformers has one, of no name."""
    config = model.Config(
        n_layer=1,
        n_embd=8,
        n_head=2,
        vocab_size=11,
        n_positions=4,
        classifiers=(
            model.Classifier(name="mood", labels=("glad", "sad"), pad_token_id=0),
            model.Classifier(name="topic", labels=("art", "law", "war")),
        ),
    )
    params = model.init(jax.random.key(0), config)
    convert.save_native(tmp_path / "native", config, params)
    read, loaded = convert.load(tmp_path / "native")
    assert read == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(errors.UserError, match="one classifier, this one mood, topic"):
        convert.save(tmp_path / "hf", config, params)


def test_a_regression_is_refused(tmp_path):
    """Read as a classifier, its single output would be a label."""
    make_folder(tmp_path, 0, problem_type="regression")
    with pytest.raises(errors.UserError, match="problem_type is 'regression'"):
        convert.load(tmp_path)
