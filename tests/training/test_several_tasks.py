"""Several tasks on one trunk, in the one training loop."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import gptjax
from gptjax import api, convert, errors, masks, model, training, tree
from gptjax.training import objectives, step


@pytest.fixture
def settings(labelled_settings, tiny_settings, tmp_path):
    """A function (out, **overrides) -> config.Run of a mood, a first letter, a text."""
    rows = "".join(f"{'ab'[n % 2]},{'ab'[n % 2]} {n // 2}\n" for n in range(48))
    (tmp_path / "letters.csv").write_text("label,text\n" + rows)
    text = tiny_settings("unused").data

    def make(out, **overrides):
        return labelled_settings(
            out,
            **{
                "auxiliary.letter.task.kind": "classification",
                "auxiliary.letter.data.train": str(tmp_path / "letters.csv"),
                "auxiliary.letter.data.sequence_tokens": 8,
                "auxiliary.text.loss_weight": 0.5,
                "auxiliary.text.data.train": text.train.path,
                "auxiliary.text.data.valid": text.valid.path,
                "auxiliary.text.data.sequence_tokens": 16,
                **overrides,
            },
        )

    return make


@pytest.mark.slow
def test_a_step_is_that_of_the_task_of_its_batch():
    """Its loss and its gradients, times its weight; the other heads' are 0."""
    gpt = model.Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=4,
        classifiers=tuple(
            model.Classifier(name=name, labels=("x", "y"), pad_token_id=0)
            for name in ("one", "two")
        ),
    ).without_dropout()  # fmt: skip
    params = model.init(jax.random.key(0), gpt)
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 11, (1, 2, 4)))
    batch = {"tokens": tokens, "classes": jnp.array([[0, 1]])}
    own = objectives.Classification("two")
    several = objectives.Several(
        (
            ("main", objectives.Classification("one"), 1.0),
            ("other", own, 0.25),
            ("text", objectives.LANGUAGE, 3.0),
        )
    )

    def gradients(batch, objective):
        grads, loss = step.mean_gradients(
            gpt, params, batch, compute=model.Compute(), objective=objective
        )
        return tree.flatten(grads), float(loss)

    mixed, loss = gradients({"other": batch}, several)
    alone, wanted = gradients(batch, own)
    assert loss == pytest.approx(0.25 * wanted, rel=1e-6)
    for path, grad in alone.items():
        np.testing.assert_allclose(mixed[path], 0.25 * grad, rtol=1e-5, atol=1e-8)
    assert np.abs(alone["classifiers/two/weight"]).max() > 0
    assert not np.any(mixed["classifiers/one/weight"])
    told = several.metrics({"other": batch}, jnp.float32(loss))
    assert told.keys() == {"other_loss", "other_texts"}
    assert float(told["other_loss"]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
def test_all_tasks_are_learnt_and_exported(settings, tmp_path):
    """Every head with the shared trunk, as a stock model of its own kind."""
    steps = {"training.steps": 150, "training.log_every_steps": 10}
    done = training.train(settings(tmp_path / "run", **steps))
    start, end = done.summary["start"], done.summary["end"]
    assert end["accuracy"] > 0.9
    assert end["auxiliary"]["letter"]["accuracy"] > 0.9
    before, after = (x["auxiliary"]["text"]["perplexity"] for x in (start, end))
    assert after < 0.5 * before
    lines = (done.folder / "metrics.jsonl").read_text().splitlines()
    told = set().union(*map(json.loads, lines))
    assert {"main_loss", "letter_loss", "text_loss", "text_tokens"} <= told
    assert {"valid_accuracy", "valid_letter_f1", "valid_text_perplexity"} <= told
    for name, labels in (("export", {"glad", "sad"}), ("export-letter", {"a", "b"})):
        stock = transformers.AutoModelForSequenceClassification.from_pretrained(
            done.folder / name
        )
        assert set(stock.config.label2id) == labels
    letters = gptjax.load(done.folder / "export-letter").predict(["a 7", "b 8"])
    assert [each.label for each in letters] == ["a", "b"]
    trunks = [
        convert.load(done.folder / name)[1]["blocks"]
        for name in ("export", "export-letter")
    ]
    jax.tree.map(np.testing.assert_array_equal, *trunks)


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_stopped_mixture_ends_where_the_unbroken_one_does(
    settings, tmp_path, stop_at
):
    """Which task is due is a part of the state."""
    plain = {"training.steps": 10, "training.checkpoint_every_steps": 1}
    whole = training.train(settings(tmp_path / "whole", **plain))
    stop_at(5)
    with pytest.raises(errors.Stopped):
        training.train(settings(tmp_path / "broken", **plain))
    broken = training.train(settings(tmp_path / "broken", **plain))
    one, other = (
        (done.export / "model.safetensors").read_bytes() for done in (whole, broken)
    )
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize(
    "main",
    [pytest.param("classification", marks=pytest.mark.very_slow), "language"],
)
def test_rounds_keep_zeros_and_all_heads(settings, tmp_path, made_up_times, main):
    """Rounds are read again, and a Hugging Face folder has room for one head."""
    own = {
        "training.steps": 90,
        "training.log_every_steps": 30,
        "pruning.sparsities": [0.5, 0.8],
        "pruning.rewind.to": "none",
    }
    if main == "language":
        text = settings("unused").auxiliary["text"].data
        own |= {
            "task.kind": "language",
            "task.name": "label",
            "data.train": text.train.path,
            "data.valid": text.valid.path,
        }
    run = api.run_pruning(settings(tmp_path / "run", **own))
    last = run.rounds[-1]
    assert last["auxiliary"]["letter"]["accuracy"] > 0.9
    assert last["sparsity"] == pytest.approx(0.8, abs=1e-3)
    whole = convert.read_config(run.folder / "rounds/02/model")
    heads = ["mood", "letter"] if main == "classification" else ["letter"]
    assert [each.name for each in whole.classifiers] == heads
    shapes = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), model.shapes(whole))
    zeros = masks.load(run.folder / "rounds/02/masks.safetensors", shapes)
    for name in ("export", "export-letter"):
        _, params = convert.load(run.folder / name)
        params = tree.flatten(params)
        for path, mask in tree.flatten(zeros).items():
            if mask.ndim:
                assert (np.asarray(params[path])[~np.asarray(mask)] == 0).all()
    page = (run.folder / "report/report.md").read_text()
    assert "## Other tasks" in page
    assert "| letter | accuracy | " in page, page


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"auxiliary.main.data.train": "x.csv"}, "auxiliary.main: the run's own"),
        ({"auxiliary.letter.data.train": None}, "auxiliary.letter.*data.train: miss"),
        ({"auxiliary.letter.data.append_eos": True}, "auxiliary.letter.data.append_"),
        ({"auxiliary.letter.task.name": "a"}, "task.name: it is the auxiliary task's"),
        ({"auxiliary.letter.data.trian": "x"}, "data.trian: .* did you mean train"),
        ({"mixing.weights": {"main": 1}}, "given for main; the tasks are letter, main"),
        ({"mixing.temperature": 0}, "mixing.temperature"),
        ({"distillation.teacher": "packaged"}, "distillation: takes one task alone"),
        ({"auxiliary.text.data.sequence_tokens": 64}, "text: data.sequence_tokens: 64"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, tmp_path, overrides, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        training.train(settings(tmp_path / "run", **overrides))


def test_mixing_of_one_task_is_refused(tiny_settings, tmp_path):
    with pytest.raises(errors.UserError, match="mixing: there is one task alone"):
        tiny_settings(tmp_path / "run", **{"mixing.temperature": 2.0})


def test_temperature_draws_small_tasks_more_often(settings, tmp_path):
    """By the power 1 / T of how many texts or sequences a task has."""

    def chances(temperature):
        run = settings(tmp_path / "run", **{"mixing.temperature": temperature})
        batches = training.prepare(run).trainer(schedule_steps=1).batches(0)
        return batches.get_state()["stream"]["chances"]

    plain, even = chances(1.0), chances(2.0)
    assert plain["main"] / plain["letter"] == pytest.approx(96 / 38)
    assert even["main"] / even["letter"] == pytest.approx((96 / 38) ** 0.5)
