"""Runs with a teacher: rounds, students, resuming, and teachers that do not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import api, convert, data, errors, masks, model, sharding, training, tree

TAUGHT = {"distillation.teacher": "dense", "distillation.weight": 0.9}


@pytest.mark.slow
def test_rounds_learn_from_the_dense_model(tiny_settings, tmp_path, made_up_times):
    """Round 0 has no teacher yet; zeros stay zeros; a stop and a new start go on."""
    shape = {"pruning.sparsities": [0.5, 0.8], "training.steps": 4}
    plain = api.run_pruning(tiny_settings(tmp_path / "plain", **shape))
    taught = api.run_pruning(tiny_settings(tmp_path / "taught", **shape, **TAUGHT))
    assert taught.rounds[0]["loss"] == plain.rounds[0]["loss"]
    assert taught.rounds[1]["loss"] != plain.rounds[1]["loss"]
    _, params = convert.load(taught.folder / "export")
    zeros = masks.load(
        taught.folder / "rounds/02/masks.safetensors",
        jax.tree.map(jnp.asarray, params),
    )
    for path, mask in tree.flatten(zeros).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])
            assert (weights[~np.asarray(mask)] == 0).all()


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_stopped_taught_run_ends_where_the_unbroken_one_does(
    tiny_settings, tmp_path, stop_at, made_up_times
):
    """The teacher is loaded again, and is the same."""
    shape = {
        "pruning.sparsities": [0.5],
        "training.steps": 5,
        "training.checkpoint_every_steps": 1,
        **TAUGHT,
    }
    whole = api.run_pruning(tiny_settings(tmp_path / "whole", **shape))
    stop_at(3)
    for _ in range(2):
        try:
            broken = api.run_pruning(tiny_settings(tmp_path / "broken", **shape))
        except errors.Stopped:
            continue
    one, other = (
        (run.folder / "export/model.safetensors").read_bytes()
        for run in (whole, broken)
    )
    assert one == other


@pytest.mark.slow
def test_a_student_of_fewer_layers_learns_from_the_whole_model(
    tiny_settings, tmp_path, made_up_times
):
    """By cutting layers out; its states are compared with those of its teacher."""
    run = api.run_pruning(
        tiny_settings(
            tmp_path / "run",
            **{
                "pruning.structured": [{"what": "layers", "indices": [1]}],
                "training.steps": 3,
                "distillation.teacher": "dense",
                "distillation.hidden_weight": 1.0,
                "distillation.attention_weight": 1.0,
            },
        )
    )
    assert run.rounds[-1]["shape"]["layers"] == 1
    assert np.isfinite(run.rounds[-1]["loss"])


@pytest.mark.slow
def test_training_with_another_run_as_teacher(tiny_settings, tmp_path):
    """Its folder names it."""
    first = training.train(tiny_settings(tmp_path / "first"))
    taught = training.train(
        tiny_settings(
            tmp_path / "second",
            **{"distillation.teacher": str(first.folder), "distillation.weight": 1.0},
        )
    )
    lines = (taught.folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if "grad_norm" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"distillation.teacher": "dense"}, "to train, name a model"),
        (
            {"distillation.teacher": "x", "distillation.layers": [[0, 1]]},
            "layers: neither",
        ),
        ({"distillation.teacher": "x", "distillation.weight": 0}, "teach nothing"),
        ({"distillation.teacher": "x", "distillation.temperature": 0}, "temperature"),
    ],
)
def test_a_teacher_that_teaches_nothing_is_refused(
    tiny_settings, tmp_path, overrides, wanted
):
    with pytest.raises(errors.UserError, match=wanted):
        tiny_settings(tmp_path / "run", **overrides)


def test_a_teacher_of_another_tokenizer_is_refused(tiny_settings, tmp_path):
    """The same number of tokens, but other ones."""
    other = tmp_path / "other"
    convert.save(
        other,
        *convert.load(convert.resolve("packaged")),
        like=convert.resolve("packaged"),
    )
    path = other / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    vocab = values["model"]["vocab"]
    one, two = list(vocab)[100:102]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    path.write_text(json.dumps(values), encoding="utf-8")
    settings = tiny_settings(tmp_path / "run", **{"distillation.teacher": str(other)})
    with pytest.raises(errors.UserError, match="its tokenizer is not the student's"):
        training.train(settings)


def test_a_shorter_teacher_is_refused_before_anything_is_written(
    tiny_settings, tmp_path
):
    """A run that never began does not hold its folder against a mended config."""
    short = model.Config(n_layer=1, n_embd=8, n_head=2, vocab_size=2048, n_positions=8)
    params = model.init(jax.random.key(0), short)
    folder = tmp_path / "short"
    convert.save(folder, short, params, like=convert.resolve("packaged"))
    settings = tiny_settings(tmp_path / "run", **{"distillation.teacher": str(folder)})
    with pytest.raises(errors.UserError, match="n_positions 8 are fewer than"):
        training.train(settings)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_scores_of_weights_are_of_the_loss_that_is_trained(tiny_settings, tmp_path):
    """RigL and Taylor would else prune for the text what is trained for the teacher: of
    a model that is its own teacher, the divergence has no slope at all.
    """
    settings = tiny_settings(tmp_path / "run")
    own = {"distillation.teacher": settings.model, "distillation.weight": 1.0}
    prepared = training.prepare(tiny_settings(tmp_path / "run", **own))
    trainer = prepared.trainer(schedule_steps=1)
    params = prepared.load_params()
    batch = jax.device_put(
        next(trainer.batches(0)), sharding.batch_sharding(trainer.mesh)
    )
    alone = trainer.gradients(params, batch)
    prepared.teach(trainer)
    taught = trainer.gradients(params, batch)
    largest = [
        max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(each))
        for each in (alone, taught)
    ]
    assert largest[0] > 1e-3
    assert largest[1] < 1e-3 * largest[0]


def test_structured_rounds_check_their_teacher_before_any_work(tiny_settings, tmp_path):
    """The last round's student may be the one that it does not fit."""
    layers = [[0, 0], [1, 1]]
    settings = tiny_settings(
        tmp_path / "run",
        **{
            "pruning.structured": [
                {"what": "neurons", "fraction": 0.5, "by": "magnitude"},
                {"what": "layers", "indices": [1]},
            ],
            "distillation.teacher": "dense",
            "distillation.hidden_weight": 1.0,
            "distillation.layers": layers,
        },
    )
    with pytest.raises(errors.UserError, match="1 and 1; the student has layers 0 to"):
        api.run_pruning(settings)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_exports_carry_the_tokenizer_that_was_used(tiny_settings, tmp_path):
    """The source's would read other tokens than those that the model learnt."""
    other = tmp_path / "other"
    folder = convert.resolve("packaged")
    tokenizer = data.load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": tokenizer.convert_ids_to_tokens(7)})
    tokenizer.save_pretrained(other)
    prepared = training.prepare(tiny_settings(tmp_path / "run", tokenizer=str(other)))
    prepared.export(tmp_path / "export", prepared.load_params())
    written = data.load_tokenizer(tmp_path / "export")
    assert written.pad_token_id == 7
    assert written.get_vocab() == tokenizer.get_vocab()
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "export" / name).read_text(encoding="utf-8"))
        assert values["pad_token_id"] == 7
        assert values["eos_token_id"] == tokenizer.eos_token_id
    assert data.load_tokenizer(folder).pad_token_id != 7
