"""Labels of words; stock PyTorch's GPT2ForTokenClassification is the oracle."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import gptjax
from gptjax import api, config, convert, data, errors, masks, model, training, tree
from gptjax.training import objectives, step

LABELS = ("noun", "verb", "other")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A stock tagger, its folder, padded tokens, and the classes of some of them."""
    folder = tmp_path_factory.mktemp("oracle")
    torch.manual_seed(0)
    stock = transformers.GPT2ForTokenClassification(
        transformers.GPT2Config(
            vocab_size=29,
            n_positions=12,
            n_embd=16,
            n_layer=2,
            n_head=2,
            id2label=dict(enumerate(LABELS)),
            classifier_dropout=0.0,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=3,
        )
    ).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    stock.save_pretrained(folder)
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(4, 29, (8, 12)).astype(np.int32)
    classes_BT = rng.integers(-1, 3, (8, 12)).astype(np.int32)
    for row, length in enumerate((12, 7, 1, 9, 3, 12, 5, 10)):
        tokens_BT[row, length:] = 3
        classes_BT[row, length:] = -1
    return stock, folder, tokens_BT, np.where(classes_BT < 0, -100, classes_BT)


@pytest.mark.parametrize("parts", [1, 4])
def test_logits_loss_and_gradients_are_stock_transformers_own(oracle, parts):
    """Of the tokens where words end alone, over all parts of a batch together."""
    stock, folder, tokens_BT, classes_BT = oracle
    stock.zero_grad()
    done = stock(
        input_ids=torch.tensor(tokens_BT),
        labels=torch.tensor(classes_BT, dtype=torch.long),
    )
    done.loss.backward()
    gpt, params = convert.load(folder)
    assert gpt.classifiers == (
        model.Classifier(labels=LABELS, pad_token_id=3, per_token=True),
    )
    compute = model.Compute()
    x_BTD = model.hidden(gpt, params, jnp.asarray(tokens_BT), compute=compute)
    logits_BTN = model.label_logits(
        gpt, params, x_BTD, jnp.asarray(tokens_BT), classifier="label", compute=compute
    )
    wanted = done.logits.detach().numpy()
    np.testing.assert_allclose(logits_BTN, wanted, atol=2e-5, rtol=0)
    batch = {
        "tokens": tokens_BT.reshape(parts, -1, 12),
        "classes": classes_BT.reshape(parts, -1, 12),
    }
    grads, loss = jax.jit(
        lambda params, batch: step.mean_gradients(
            gpt.without_dropout(),
            params,
            batch,
            compute=compute,
            objective=objectives.Classification("label", unit="words"),
        )
    )(params, batch)
    assert float(loss) == pytest.approx(done.loss.item(), rel=1e-5)
    names = dict(stock.named_parameters())
    for name, leaf, part, place in convert.names.in_hf_order(gpt):
        got = np.asarray(tree.flatten(grads)[leaf.path])
        got = got[place] if leaf.is_stacked else got
        expected = names[name].grad.numpy()
        np.testing.assert_allclose(
            part.of_leaf(got), expected, rtol=1e-4, atol=2e-6, err_msg=name
        )


def test_an_export_of_a_tagger_is_the_checkpoint_again(oracle, tmp_path):
    """Byte for byte, and a model of the same class with the same labels."""
    stock, folder, tokens_BT, _ = oracle
    gpt, params = convert.load(folder)
    convert.save(tmp_path / "again", gpt, params, like=folder)
    first, second = (
        (path / "model.safetensors").read_bytes()
        for path in (folder, tmp_path / "again")
    )
    assert first == second
    again = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "again"
    )
    assert isinstance(again, transformers.GPT2ForTokenClassification)
    assert again.config.id2label == dict(enumerate(LABELS))
    assert again.dropout.p == 0
    convert.save(tmp_path / "fresh", gpt, params)
    assert json.loads((tmp_path / "fresh/config.json").read_text())[
        "classifier_dropout"
    ] == 0  # fmt: skip
    ids = torch.tensor(tokens_BT)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, stock(ids).logits)


def test_a_words_label_stands_at_its_last_token(tmp_path):
    """The only one of a causal model's that has seen all of the word."""
    tokenizer = data.Tokenizer(convert.resolve("packaged"))
    words = ["Netherfield", "is", "let", "Ünïcödë", "at", "last,"]
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": words, "label": ["N", "V", "V", "N", "P", "P"]}) + "\n"
    )
    found = data.read_tagged(
        config.Source(path=str(tmp_path / "a.jsonl")), tokenizer, labels=None
    )
    assert found.labels == ("N", "P", "V")
    ids, tags = found.ids(0), found.tags
    assert tokenizer.loaded.decode(ids) == " ".join(words)
    starts = np.flatnonzero(tags != data.UNKNOWN) + 1
    parts = np.split(ids, starts)[:-1]
    assert [tokenizer.loaded.decode(part).strip() for part in parts] == words
    assert [found.labels[t] for t in tags[starts - 1]] == ["N", "V", "V", "N", "P", "P"]
    assert any(len(part) > 1 for part in parts)
    batch = data.fill(found, np.array([[0, -1]]), longest=5, pad_id=0)
    assert batch["classes"].shape == batch["tokens"].shape == (1, 2, 5)
    assert batch["classes"][0, 0].tolist() == tags[:5].tolist()
    assert (batch["classes"][0, 1] == data.UNKNOWN).all()
    assert found.known(5).tolist() == [t for t in tags[:5] if t != data.UNKNOWN]


@pytest.fixture
def settings(tiny_settings, tmp_path):
    """A function (out, **overrides) -> config.Run that tags made-up words."""
    rng = np.random.default_rng(0)
    kinds = {"dog": "noun", "sun": "noun", "runs": "verb", "sees": "verb", "so": "x"}
    for name, count in (("train", 64), ("valid", 24)):
        lines = []
        for _ in range(count):
            words = rng.choice(list(kinds), rng.integers(1, 5)).tolist()
            lines.append(
                json.dumps({"text": words, "label": [kinds[word] for word in words]})
            )
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def make(out, **overrides):
        return tiny_settings(
            out,
            **{
                "task.kind": "tagging",
                "task.name": "speech",
                "data.train": str(tmp_path / "train.jsonl"),
                "data.valid": str(tmp_path / "valid.jsonl"),
                "training.batch_sequences": 16,
                "training.log_every_steps": 10,
                **overrides,
            },
        )

    return make


@pytest.mark.slow
def test_a_tagger_learns_and_stock_transformers_agrees(settings, tmp_path):
    """The whole way: words, tags, training, evaluation, export, import, use."""
    more = {"training.steps": 40, "task.class_weights": "balanced"}
    done = training.train(settings(tmp_path / "run", **more))
    start, end = done.summary["start"], done.summary["end"]
    assert end["accuracy"] > 0.95 > start["accuracy"]
    assert end["unit"] == "words"
    assert " words of texts of at most 16 tokens" in end["protocol"]
    loaded = gptjax.load(done.folder)
    stock = transformers.AutoModelForTokenClassification.from_pretrained(done.export)
    text = "dog sees so"
    (found,) = loaded.tag([text])
    assert [word for word, _ in found] == text.split()
    ids = loaded.tokenizer.encode(text)
    with torch.no_grad():
        chances = stock.eval()(torch.tensor([ids])).logits.softmax(-1)[0, -1].tolist()
    assert list(found[-1][1].probabilities.values()) == pytest.approx(chances, abs=1e-5)
    again = loaded.classify(tmp_path / "valid.jsonl", sequence_tokens=16)
    assert again.accuracy == pytest.approx(end["accuracy"])
    assert again.confusion == tuple(map(tuple, end["confusion"]))
    with pytest.raises(errors.UserError, match="labels words"):
        loaded.predict([text])


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_pruned_tagger_keeps_its_zeros(settings, tmp_path, made_up_times):
    run = api.run_pruning(
        settings(tmp_path / "run", **{"training.steps": 5, "pruning.sparsities": [0.8]})
    )
    gpt, params = convert.load(run.folder / "export")
    assert gpt.classifier("speech").per_token
    shapes = jax.tree.map(jnp.asarray, params)
    zeros = masks.load(run.folder / "rounds/01/masks.safetensors", shapes)
    for path, mask in tree.flatten(zeros).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])
            assert (weights[~np.asarray(mask)] == 0).all()
    page = (run.folder / "report/report.md").read_text()
    assert "| label | precision | recall | F1 | words |" in page


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"text": ["a", "b"], "label": ["N"]}, "line 2: 2 words and 1 tags"),
        ({"text": ["a b"], "label": ["N"]}, "'a b' is no word"),
        ({"text": [], "label": []}, "an empty text"),
        ({"text": ["a"]}, "no column 'label'"),
        ({"text": 3, "label": "N"}, "holds no words but int"),
    ],
)
def test_what_is_no_tagged_text_is_refused(tmp_path, line, wanted):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b", "label": "N V"}\n' + json.dumps(line))
    tokenizer = data.Tokenizer(convert.resolve("packaged"))
    with pytest.raises(errors.UserError, match=wanted):
        data.read_tagged(config.Source(path=str(path)), tokenizer, labels=None)


def test_an_unknown_tag_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na b,N Z\n")
    tokenizer = data.Tokenizer(convert.resolve("packaged"))
    source = config.Source(path=str(tmp_path / "a.csv"))
    with pytest.raises(
        errors.UserError, match=r"line 2: label 'Z' is none of .*: N, V"
    ):
        data.read_tagged(source, tokenizer, labels=("N", "V"))
