"""Classifiers in the one training loop; stock PyTorch is the oracle."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import gptjax
from gptjax import (
    api,
    config,
    convert,
    data,
    errors,
    masks,
    model,
    training,
    tree,
)
from gptjax.training import objectives, step
from gptjax.training.tasks import classification

PAD, LABELS = 3, ("good", "bad", "so so")
WEIGHTS = (0.5, 2.0, 1.25)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A stock classifier, its folder, padded tokens, and their classes."""
    folder = tmp_path_factory.mktemp("oracle")
    torch.manual_seed(0)
    stock = transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=29,
            n_positions=12,
            n_embd=16,
            n_layer=2,
            n_head=2,
            id2label=dict(enumerate(LABELS)),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=PAD,
        )
    ).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    stock.save_pretrained(folder)
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(4, 29, (8, 12)).astype(np.int32)
    for row, length in zip(tokens_BT, (12, 7, 1, 9, 3, 12, 5, 10), strict=True):
        row[length:] = PAD
    return stock, folder, tokens_BT, np.array([0, 2, 1, 1, 0, 2, 0, 1], np.int32)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("parts", [1, 4])
def test_loss_and_gradients_are_stock_transformers_own(oracle, weights, parts):
    """Weights of classes divide, too, and over all parts of a batch together."""
    stock, folder, tokens_BT, classes_B = oracle
    stock.zero_grad()
    logits = stock(input_ids=torch.tensor(tokens_BT)).logits
    weight = None if weights is None else torch.tensor(weights)
    wanted = torch.nn.CrossEntropyLoss(weight=weight)(
        logits, torch.tensor(classes_B, dtype=torch.long)
    )
    wanted.backward()
    gpt, params = convert.load(folder)
    batch = {
        "tokens": tokens_BT.reshape(parts, -1, 12),
        "classes": classes_B.reshape(parts, -1),
    }
    grads, loss = jax.jit(
        lambda params, batch: step.mean_gradients(
            gpt.without_dropout(),
            params,
            batch,
            compute=model.Compute(),
            objective=objectives.Classification("label", weights),
        )
    )(params, batch)
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    names = dict(stock.named_parameters())
    for name, leaf, part, place in convert.names.in_hf_order(gpt):
        got = np.asarray(tree.flatten(grads)[leaf.path])
        got = got[place] if leaf.is_stacked else got
        expected = names[name].grad.numpy()
        np.testing.assert_allclose(
            part.of_leaf(got), expected, rtol=1e-4, atol=2e-6, err_msg=name
        )


def test_a_row_without_a_class_counts_for_nothing(oracle):
    """Rows that fill up the last batch of an evaluation."""
    _, folder, tokens_BT, classes_B = oracle
    gpt, params = convert.load(folder)
    objective = objectives.Classification("label", WEIGHTS)

    def loss(count):
        batch = {
            "tokens": tokens_BT,
            "classes": np.where(np.arange(8) < count, classes_B, -100),
        }
        batch = {name: jnp.asarray(x) for name, x in batch.items()}
        return float(
            objective.loss(
                gpt, params, batch, objective.scale(batch),
                compute=model.Compute(), dropout_key=None,
            )
        ), int(objective.metrics(batch, None)["texts"])  # fmt: skip

    few = {"tokens": jnp.asarray(tokens_BT[:5]), "classes": jnp.asarray(classes_B[:5])}
    alone = objective.loss(
        gpt,
        params,
        few,
        objective.scale(few),
        compute=model.Compute(),
        dropout_key=None,
    )
    assert loss(5) == (pytest.approx(float(alone), rel=1e-6), 5)
    assert loss(0) == (0.0, 0)


@pytest.mark.slow
def test_the_language_loss_is_added_at_its_weight(oracle):
    """Each of the two is a mean of its own."""
    _, folder, tokens_BT, classes_B = oracle
    gpt, params = convert.load(folder)
    labels = np.where(tokens_BT == PAD, -100, tokens_BT)
    batch = {"tokens": tokens_BT, "classes": classes_B, "labels": labels}
    batch = {name: jnp.asarray(x)[None] for name, x in batch.items()}

    def loss(objective):
        return float(
            step.mean_gradients(
                gpt.without_dropout(),
                params,
                batch,
                compute=model.Compute(),
                objective=objective,
            )[1]
        )

    both = loss(objectives.Classification("label", language_weight=0.5))
    alone = loss(objectives.Classification("label"))
    assert both == pytest.approx(alone + 0.5 * loss(objectives.LANGUAGE), rel=1e-5)


def test_balanced_weights_are_scikit_learns():
    """Of labels with 5, 2 and 1 texts."""
    from sklearn.utils import class_weight

    classes = np.array([0, 0, 0, 0, 0, 1, 1, 2], np.int32)
    tokens = data.Tokens(np.zeros(8, np.int32), np.arange(8), bytes=8)
    examples = data.Examples(tokens, np.arange(8), classes, ("a", "b", "c"))
    wanted = class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=classes
    )
    assert classification.class_weights("balanced", examples) == pytest.approx(wanted)
    given = {"c": 3.0, "a": 1.0, "b": 2.0}
    assert classification.class_weights(given, examples) == (1.0, 2.0, 3.0)
    with pytest.raises(errors.UserError, match="given for a; the labels are a, b, c"):
        classification.class_weights({"a": 1.0}, examples)


@pytest.fixture
def settings(labelled_settings):
    return labelled_settings


def test_a_classifier_learns_and_stock_transformers_agrees(settings, tmp_path):
    """The whole way: texts, labels, training, evaluation, export, import."""
    run = settings(tmp_path / "run", **{"training.steps": 60})
    done = training.train(run)
    start, end = done.summary["start"], done.summary["end"]
    assert end["accuracy"] > 0.9 > start["accuracy"]
    assert end["labels"] == ["glad", "sad"]
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(done.export)
    assert stock.config.id2label == {0: "glad", 1: "sad"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.export)
    loaded = gptjax.load(done.folder)
    texts = ["sun joy", "woe", "rain night woe"]
    for text, ours in zip(texts, loaded.predict(texts), strict=True):
        with torch.no_grad():
            ids = torch.tensor([tokenizer.encode(text)])
            chances = stock.eval()(ids).logits.softmax(-1)[0].tolist()
        assert list(ours.probabilities.values()) == pytest.approx(chances, abs=1e-5)
        assert ours.label == stock.config.id2label[int(np.argmax(chances))]
    again = loaded.classify(run.data.valid)
    assert again.accuracy == pytest.approx(end["accuracy"])
    assert again.loss == pytest.approx(end["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_trained_classifier_is_trained_on(settings, tmp_path):
    """With its labels; a classifier of another name is a new one."""
    first = training.train(settings(tmp_path / "a", **{"training.steps": 30}))
    more = {"model": str(first.folder), "training.steps": 1}
    second = training.train(settings(tmp_path / "b", **more))
    assert second.summary["start"]["accuracy"] == first.summary["end"]["accuracy"]
    third = training.train(settings(tmp_path / "c", **more, **{"task.name": "other"}))
    assert third.summary["start"]["loss"] != second.summary["start"]["loss"]
    (tmp_path / "new.csv").write_text("label,text\nsad,rain\nangry,thunder\n")
    new = {**more, "data.train": str(tmp_path / "new.csv")}
    with pytest.raises(errors.UserError, match=r"label 'angry' is none of .*glad, sad"):
        training.train(settings(tmp_path / "d", **new))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"mesh.fsdp": 2, "mesh.data": 2, "mesh.tensor": 2},
        {"training.accumulation_steps": 2},
        {"mesh.fsdp": 1, "mesh.data": 4, "mesh.context": 2},
    ],
)
def test_meshes_and_accumulation_change_nothing(settings, tmp_path, overrides):
    """The last token of a text lies on one of the devices that share its sequence."""
    plain = {"training.steps": 3, "training.dropout": False}
    losses = []
    for name, more in (("a", {}), ("b", overrides)):
        run = settings(tmp_path / name, **{**plain, **more})
        done = training.train(run)
        lines = (done.folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    first, second = ([x for x in each if x is not None] for each in losses)
    assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_stopped_run_ends_where_the_unbroken_one_does(settings, tmp_path, stop_at):
    """The place in the stream of texts is a part of the state."""
    plain = {"training.steps": 8, "training.checkpoint_every_steps": 1}
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
def test_a_pruned_classifier_keeps_its_zeros(settings, tmp_path, made_up_times):
    """Rounds, a control, the report: all by accuracy."""
    run = api.run_pruning(
        settings(
            tmp_path / "run",
            **{
                "training.steps": 10,
                "pruning.sparsities": [0.5, 0.8],
                "pruning.controls": ["random"],
            },
        )
    )
    last = run.rounds[-1]
    assert last["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert {"accuracy", "f1", "confusion"} < last.keys()
    gpt, params = convert.load(run.folder / "export")
    assert gpt.classifier("mood").labels == ("glad", "sad")
    zeros = masks.load(
        run.folder / "rounds/02/masks.safetensors", jax.tree.map(jnp.asarray, params)
    )
    for path, mask in tree.flatten(zeros).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])
            assert (weights[~np.asarray(mask)] == 0).all()
    page = (run.folder / "report/report.md").read_text()
    for wanted in ("Accuracy: ", "| accuracy |", "## Labels"):
        assert wanted in page
    assert (run.folder / "report/sparsity_accuracy.png").exists()
    assert (run.folder / "report/confusion.png").exists()


def test_without_validation_texts_a_fraction_is_taken(settings, tmp_path):
    """Of every label the same."""
    run = settings(tmp_path / "run", **{"data.valid": None, "training.steps": 0})
    done = training.train(run)
    assert "train.csv, 21% of it, 20 texts" in done.summary["end"]["protocol"]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (
            {"task.kind": "language", "task.name": "label", "data.limit": 3},
            "data.limit",
        ),
        ({"task.kind": "language"}, "name: kind language has none"),
        (
            {
                "task.kind": "language",
                "task.name": "label",
                "data.train": {"path": "x.txt", "label_column": "mood"},
            },
            r"data\.train\.label_column: task\.kind language has none",
        ),
        ({"data.respect_documents": True}, "data.respect_documents"),
        ({"task.class_weights": {"glad": -1.0, "sad": 1.0}}, "must be positive"),
        ({"evaluation.sample_prompt": "x"}, "sample_prompt: is of task.kind language"),
    ],
)
def test_what_does_not_fit_a_task_is_refused(settings, tmp_path, overrides, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        settings(tmp_path / "run", **overrides)


def test_a_perplexity_of_an_untied_classifier_is_refused(tmp_path):
    """The token embedding is no output layer there, and would be taken for one."""
    gpt = model.Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=4,
        tie_word_embeddings=False,
        classifiers=(model.Classifier(labels=("a", "b")),),
    )  # fmt: skip
    params = model.init(jax.random.key(0), gpt)
    with pytest.raises(errors.UserError, match="no scores of the next token"):
        model.apply(gpt, params, jnp.zeros((1, 4), jnp.int32))


def test_a_plan_of_a_classification_is_refused(settings, tmp_path):
    from gptjax import planning

    with pytest.raises(errors.UserError, match="only language modelling is planned"):
        planning.plan(settings(tmp_path / "run"), "cpu:1")
    assert config.Task().kind == "language"


@pytest.mark.slow
def test_language_modelling_drops_a_classifier(settings, tiny_settings, tmp_path):
    """It would decay, and its export would be no language model."""
    first = training.train(settings(tmp_path / "a", **{"training.steps": 1}))
    again = {"model": str(first.folder), "training.steps": 1}
    second = training.train(tiny_settings(tmp_path / "b", **again))
    assert "perplexity" in second.summary["end"]
    assert convert.read_config(second.export).classifiers == ()


def test_calibration_reads_training_texts_alone(settings, tmp_path):
    """Without validation texts of their own, a fifth of the source is held out."""
    prepared = training.prepare(settings(tmp_path / "run", **{"data.valid": None}))
    train = prepared.texts.train
    joined = train.joined
    assert len(joined) == train.lengths.sum() < len(train.tokens)
    assert np.array_equal(joined.ids[: train.lengths[0]], train.ids(0))


@pytest.mark.slow
def test_a_run_notices_a_label_whose_weight_changed(settings, tmp_path):
    """A dot in a label is no dot of a key."""
    weights = {"glad": 1.0, "sad": 2.0}
    steps = {"training.steps": 1}
    training.train(settings(tmp_path / "a", **steps, **{"task.class_weights": weights}))
    other = {"task.class_weights": {**weights, "sad": 3.0}}
    with pytest.raises(errors.UserError, match=r"holds a run with task\.class_weights"):
        training.train(settings(tmp_path / "a", **steps, **other))
