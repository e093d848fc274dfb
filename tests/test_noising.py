"""Models on noised texts: the very same texts, measured as clean ones are."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gptjax
from gptjax import assets, cli, config, convert, data, model

PACKAGED = str(assets.checkpoint())


@pytest.fixture
def run(capfd):
    """A function (*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def text(tmp_path):
    """A file of some sentences."""
    path = tmp_path / "some.txt"
    path.write_text(assets.text("austen.test").read_text(encoding="utf-8")[:1200])
    return path


@pytest.fixture
def save(tmp_path):
    """A function (name, classifier, **fields) that writes a model of random weights."""

    def write(name, classifier=None, **fields):
        gpt = model.Config(n_layer=1, n_embd=8, n_head=2, vocab_size=2048, **fields)
        if classifier is not None:
            gpt = dataclasses.replace(gpt, classifiers=(classifier,))
        params = model.init(jax.random.key(0), gpt)
        convert.save(tmp_path / name, gpt, params, like=assets.checkpoint())
        return tmp_path / name

    return write


def test_noised_texts_are_measured_as_evaluate_measures_files(run, text, tmp_path):
    """The noise is data.noised's and the figure is evaluate's; nothing else comes in
    between. The model beside it reads the same, and its own costs are its own.
    """
    other = tmp_path / "other"
    settings, params = convert.load(assets.checkpoint())
    params["blocks"]["mlp"]["up"]["kernel"] *= 0.8
    convert.save(other, settings, params, like=assets.checkpoint())
    how = ("--context", 64, "--json")
    noise = ("--noise", "typos", "--rate", 0.2, "--rate", 0, "--seed", 4, "--seeds", 1)
    code, out, err = run("robustness", "packaged", other, "--text", text, *noise, *how)
    assert code == 0, err
    found = json.loads(out)
    assert "some.txt, 1,200 bytes before noise, context 64, stride 64" in out
    rng = np.random.default_rng([4, 0])
    noised = tmp_path / "noised.txt"
    noised.write_text(data.noised(text.read_text(), "typos", rate=0.2, rng=rng))
    for row, name in zip(found["noised"], ("packaged", str(other)), strict=True):
        assert (row["model"], row["noise"], row["rate"]) == (name, "typos", 0.2)
        for path, figure in (
            (text, found["clean"][name]["bits_per_byte"]),
            (noised, row["bits_per_byte"]["mean"]),
        ):
            _, out, _ = run("evaluate", name, "--text", path, *how)
            assert figure == pytest.approx(json.loads(out)["bits_per_byte"], rel=1e-6)
        assert row["bits_per_byte"]["sd"] is None


def test_the_command_shows_and_writes_what_it_found(run, text, tmp_path, save):
    """The table in the terminal, the page and the picture in the folder."""
    tiny = save("tiny", n_positions=32)
    how = ("--text", text, "--noise", "swaps", "--seeds", 2, "--rate", 0.3)
    how += ("--out", tmp_path / "page")
    code, out, err = run("robustness", tiny, *how)
    assert code == 0, err
    assert "context 32" in out
    assert "Swaps in 30 % of the words cost" in out
    assert "robustness.md" in out
    assert (tmp_path / "page" / "robustness.png").exists()
    assert "seeds 0 to 1" in (tmp_path / "page" / "robustness.md").read_text()


def test_a_classifier_is_measured_by_accuracy(tmp_path, save):
    """Of texts in another order than its labels; whatever noise does, the labels
    stay with their texts.
    """
    labels = ("glad", "sad")
    mood = model.Classifier(name="mood", labels=labels, pad_token_id=0)
    folder = save("classifier", mood, n_positions=32)
    texts = [f"It was well done by {sign}" for sign in "abcdefghijklmnop"]
    classifier = gptjax.load(folder)
    given = [each.label for each in classifier.predict(texts)]
    assert {*given} == {*labels}
    rows = [f"{own},{each}\n" for own, each in zip(given, texts, strict=True)]
    path = tmp_path / "texts.csv"
    path.write_text("mood,review\n" + "".join(rows))
    found = gptjax.robustness(
        [folder],
        config.Source(path=str(path), column="review", label_column="mood"),
        noises=["typos", "drops"],
        rates=[0.5],
        seeds=1,
    )
    assert found.key == "accuracy"
    assert found.clean[str(folder)]["accuracy"] == 1
    assert {*found.clean[str(folder)]} == {"accuracy", "f1", "loss"}
    assert "texts.csv, 16 texts of at most 32 tokens, 2 labels" in found.protocol
    for noise in found.noises:
        noised = [
            data.noised(each, noise, rate=0.5, rng=np.random.default_rng([0, place]))
            for place, each in enumerate(texts)
        ]
        own = [each.label for each in classifier.predict(noised)]
        right = np.mean([a == b for a, b in zip(own, given, strict=True)])
        assert found.values(str(folder), noise, 0.5) == pytest.approx([right])


def test_what_cannot_be_measured_is_one_line(run, text, tmp_path, save):
    """Before any model is read: noise of many words is not measured in seconds."""
    words = model.Classifier(name="tags", labels=("A", "B"), per_token=True)
    tagger = save("tagger", words, n_positions=32)
    texts = model.Classifier(name="mood", labels=("A", "B"), pad_token_id=0)
    classifier = save("classifier", texts, n_positions=32)
    other = tmp_path / "other.csv"
    other.write_text("label,text\nC,It is.\n")
    for arguments, said in (
        (["packaged", "--rate", "5"], "rate 5: it is the fraction of words"),
        (["packaged", "--noise", "typo"], "noise 'typo': it is one of typos"),
        (["packaged", "--seeds", "0"], "seeds 0"),
        (["packaged", "packaged"], "none twice"),
        (["packaged", classifier], "classifier is a classifier, and packaged is a lan"),
        ([tagger], "tagger: labels words"),
        ([classifier, "--text", other], "line 2: label 'C' is none of those"),
        (["packaged", "--text", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["packaged", "--context", "512"], "smallest n_positions 256"),
    ):
        where = [] if "--text" in arguments else ["--text", text]
        code, _, err = run("robustness", *arguments, *where)
        assert code == 1, err
        assert said in err
        assert err.startswith("gptjax: ")
        assert err.count("\n") == 1
