"""What classifiers make of texts at hand, and of which of several one is meant."""

import io
import json

import jax
import numpy as np
import pytest

import gptjax
from gptjax import assets, cli, convert, errors, model

MOOD = model.Classifier(name="mood", labels=("glad", "sad"))
SPEECH = model.Classifier(name="speech", labels=("noun", "verb"), per_token=True)


@pytest.fixture
def run(capfd):
    """A function (*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model of random weights with two classifiers, as a round of pruning has it."""
    folder = tmp_path_factory.mktemp("several")
    config = model.Config(
        n_layer=1,
        n_embd=8,
        n_head=2,
        vocab_size=2048,
        n_positions=16,
        classifiers=(MOOD, SPEECH),
    )
    params = model.init(jax.random.key(0), config)
    convert.save_native(folder / "model", config, params, like=assets.checkpoint())
    return folder / "model"


@pytest.fixture
def texts(tmp_path):
    """A CSV file of labelled texts."""
    path = tmp_path / "texts.csv"
    path.write_text("label,text\nglad,A fine day.\nsad,A poor play.\n")
    return path


def test_every_public_name_is_there():
    """They are imported when used: a wrong place would come up at a user's."""
    for name in gptjax.__all__:
        assert getattr(gptjax, name).__name__ == name


def test_a_task_says_which_classifier_is_meant(run, several, texts):
    """Without it nothing is guessed; the language model is there as well."""
    code, _, err = run("predict", several, "A fine day.")
    assert code == 1
    assert "classifiers mood, speech; say which (`task`)" in err
    code, _, err = run("predict", several, "--task", "tone", "A fine day.")
    assert (code, "task 'tone'; the model has mood, speech" in err) == (1, True)
    loaded = gptjax.load(several)
    (expected,) = loaded.predict(["A fine day."], task="mood")
    code, out, _ = run("predict", several, "--task", "mood", "A fine day.")
    assert out.split("\t")[0] == expected.label
    how = ("--text", texts, "--context", 16, "--json")
    code, out, err = run("evaluate", several, "--task", "mood", *how)
    assert code == 0, err
    given = [
        each.label
        for each in loaded.predict(["A fine day.", "A poor play."], task="mood")
    ]
    assert json.loads(out)["accuracy"] == np.mean(np.array(given) == ["glad", "sad"])
    code, out, err = run("evaluate", several, "--language", *how)
    assert code == 0, err
    assert json.loads(out)["perplexity"] == pytest.approx(2048, rel=0.05)
    code, out, err = run(
        "robustness", several, "--task", "mood", *how, "--rate", 0.5, "--seeds", 1
    )
    assert code == 0, err
    code, _, err = run("robustness", several, "--task", "speech", *how)
    assert (code, "labels words, which noise drops" in err) == (1, True)


def test_words_are_told_by_text(run, several):
    """One JSON object a text; words beyond what the model reads are missed aloud."""
    long = " ".join(["day"] * 30)
    code, out, err = run(
        "predict", several, "--task", "speech", "--json", "A day", long
    )
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert [word["word"] for word in first["words"]] == ["A", "day"]
    assert sum(first["words"][0]["probabilities"].values()) == pytest.approx(1)
    read = len(second["words"])
    assert read < 30
    assert f"text 2: {read} of 30 words are read; the model's n_positions is 16" in err
    code, out, _ = run("predict", several, "--task", "speech", "A day", "So")
    assert [len(lines.splitlines()) for lines in out.split("\n\n")[:2]] == [2, 1]


def test_no_texts_have_no_labels(run, several, monkeypatch):
    loaded = gptjax.load(several)
    assert loaded.predict([], task="mood") == loaded.tag([], task="speech") == []
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    code, _, err = run("predict", several, "--task", "mood")
    assert (code, err) == (
        1,
        "gptjax: no text to label; give some, or lines of input\n",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict("abc", task="mood"), "'abc' is one text; give a list"),
        (lambda m: m.tag("abc", task="speech"), "'abc' is one text; give a list"),
        (lambda m: m.generate("abc"), "'abc' is one text; give a list"),
        (lambda m: m.predict(["a", "\udc80"], task="mood"), "text 2: not Unicode"),
        (lambda m: m.tag(["a", "\udc80"], task="speech"), "text 2: not Unicode"),
        (lambda m: m.generate(["\udc80"]), "prompt 1: not Unicode"),
        (lambda m: m.predict(["a", " "], task="mood"), "text 2: an empty text"),
        (lambda m: m.tag([""], task="speech"), "text 1: an empty text"),
        (lambda m: m.predict(["a"], task="speech"), "labels words; use tag"),
        (lambda m: m.tag(["a"], task="mood"), "labels texts; use predict"),
        (lambda m: m.connect(m, "x.txt"), "a classifier; only language models"),
    ],
)
def test_what_cannot_be_labelled_is_told(several, call, message):
    """In one line that names the text."""
    with pytest.raises(errors.UserError, match=message.replace("(", r"\(")):
        call(gptjax.load(several))
