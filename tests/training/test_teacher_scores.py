"""A teacher's scores kept on disk: what is kept, what is learnt of it, resuming."""

import dataclasses
import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import (
    api,
    config,
    convert,
    data,
    errors,
    masks,
    model,
    sharding,
    training,
    tree,
)
from gptjax.training import distillation, objectives, step, teacher_scores

STUDENT = model.Config(
    vocab_size=61, n_positions=12, n_embd=16, n_layer=1, n_head=2
).without_dropout()
TEACHER = dataclasses.replace(STUDENT, n_layer=2, n_head=4)
T, WEIGHT, TEMPERATURE = 12, 0.7, 3.0
CACHED = {
    "distillation.teacher": "dense",
    "distillation.weight": 0.9,
    "distillation.cache_top_k": 8,
}


@pytest.fixture(scope="module")
def pair():
    """Params of a student and of a teacher, and a text of seven sequences and a bit."""
    params = [model.init(jax.random.key(n), c) for n, c in ((0, STUDENT), (1, TEACHER))]
    # Fresh models find all words equally likely.
    params = [jax.tree.map(lambda x: 6 * x, each) for each in params]
    ids = np.random.default_rng(0).integers(0, 61, 7 * T + 5).astype(np.uint16)
    return *params, data.Tokens(ids, np.array([0, 20, 50]), bytes=1, checksum=7)


def reading(text, top_k, **changes):
    return teacher_scores.Reading(
        **{
            "text": text,
            "sequence_tokens": T,
            "respect_documents": False,
            "vocab_size": 61,
            "top_k": top_k,
            "temperature": TEMPERATURE,
            "compute": model.Compute(loss_chunk_tokens=7),
            **changes,
        }
    )


def kept(folder, params, wanted, *, teacher="a", batch_sequences=2, mesh=None):
    mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])

    def load():
        return TEACHER, jax.device_put(params, sharding.param_shardings(mesh, params))

    return teacher_scores.scores(
        wanted,
        folder,
        teacher=teacher,
        load=load,
        mesh=mesh,
        batch_sequences=batch_sequences,
    )


def learnt(objective, params, batch, frozen=None):
    batch = {name: array[None] for name, array in batch.items()}
    return jax.jit(
        lambda params, batch: step.mean_gradients(
            STUDENT, params, batch, compute=model.Compute(), objective=objective,
            frozen=frozen,
        )
    )(params, batch)  # fmt: skip


def test_all_words_kept_teach_as_the_teacher_does(pair, tmp_path):
    """The same loss and gradients as with the teacher beside the student, but for
    float16; documents are apart for both.
    """
    own, frozen, text = pair
    scores = kept(tmp_path, frozen, reading(text, 61, respect_documents=True))
    numbers = np.array([3, 0, 6])
    batch = data.pack(text, numbers, sequence_tokens=T, respect_documents=True)
    batch |= scores(numbers)
    settings = config.Distillation(teacher="x", weight=WEIGHT, temperature=TEMPERATURE)
    beside = distillation.make(
        settings, objectives.LANGUAGE, STUDENT, TEACHER, name="x"
    )
    wanted, wanted_loss = learnt(beside, own, batch, frozen)
    objective = distillation.Recollection(TEMPERATURE, WEIGHT)
    grads, loss = learnt(objective, own, batch)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-3)
    for path, leaf in tree.flatten(wanted).items():
        got = np.asarray(tree.flatten(grads)[path])
        assert np.abs(got - leaf).max() <= 2e-3 * np.abs(leaf).max() + 1e-6, path


def test_what_is_no_chance_is_kept_as_a_number(pair, tmp_path):
    """The logarithm of nothing is -inf, and float16 ends at 65504."""
    own, frozen, text = pair
    frozen = {**frozen, "ln_f": jax.tree.map(lambda x: 1e8 * x, frozen["ln_f"])}
    scores = kept(tmp_path, frozen, reading(text, 61))
    found = scores(np.arange(7))
    assert found[teacher_scores.LOG_CHANCES].min() == np.finfo(np.float16).min
    batch = data.pack(text, np.arange(7), sequence_tokens=T, respect_documents=False)
    objective = distillation.Recollection(TEMPERATURE, WEIGHT)
    grads, loss = learnt(objective, own, batch | found)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_scores_are_the_same_on_a_mesh(pair, tmp_path):
    """Every device takes its own tokens, and the head is gathered."""
    _, frozen, text = pair
    one = kept(tmp_path / "one", frozen, reading(text, 3))
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    compute = model.Compute(mesh=mesh, loss_chunk_tokens=2)
    wanted = reading(text, 3, compute=compute)
    two = kept(tmp_path / "two", frozen, wanted, batch_sequences=4, mesh=mesh)
    first, second = (scores(np.arange(7)) for scores in (one, two))
    np.testing.assert_array_equal(*(x[teacher_scores.IDS] for x in (first, second)))
    np.testing.assert_allclose(
        *(x[teacher_scores.LOG_CHANCES] for x in (first, second)), atol=2e-3
    )


def test_other_teachers_texts_and_temperatures_have_scores_of_their_own(pair, tmp_path):
    """Scores of another would teach quietly what nobody asked for."""
    _, frozen, text = pair
    first = kept(tmp_path, frozen, reading(text, 3))
    assert kept(tmp_path, None, reading(text, 3)).path == first.path
    other = dataclasses.replace(text, checksum=8)
    for changes in (
        {"wanted": reading(text, 4)},
        {"wanted": reading(other, 3)},
        {"wanted": reading(text, 3, temperature=1.0)},
        {"wanted": reading(text, 3, respect_documents=True)},
        {"wanted": reading(text, 3), "teacher": "b"},
    ):
        assert kept(tmp_path, frozen, **changes).path != first.path, changes


def test_a_reading_that_was_stopped_goes_on(pair, tmp_path, stop_at, monkeypatch):
    """From the last whole batch, also where a kill cut a record in two."""
    _, frozen, text = pair
    whole = kept(tmp_path / "whole", frozen, reading(text, 3)).path.read_bytes()
    stop_at(2)
    with pytest.raises(errors.Stopped, match="while the teacher read"):
        kept(tmp_path / "broken", frozen, reading(text, 3))
    (part,) = (tmp_path / "broken").glob("*/scores.part")
    size = reading(text, 3).record.itemsize
    assert part.stat().st_size == 4 * size
    part.write_bytes(part.read_bytes()[: 3 * size + 5])
    read = []
    pack = data.pack
    monkeypatch.setattr(
        data, "pack", lambda t, n, **how: read.extend(n) or pack(t, n, **how)
    )
    again = kept(tmp_path / "broken", frozen, reading(text, 3))
    assert read == [2, 3, 4, 5, 6, 6]
    assert again.path.read_bytes() == whole
    assert not part.exists()


def test_no_room_is_told_before_anything_is_written(pair, tmp_path, monkeypatch):
    """A teacher that reads for a day, to find the disk full, has read for nothing."""
    _, frozen, text = pair
    room = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=99))
    with pytest.raises(errors.UserError, match="cache_top_k: 3 for each of 89 tokens"):
        kept(tmp_path / "new", frozen, reading(text, 3))
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_and_a_damaged_file_are_told(pair, tmp_path, monkeypatch):
    """In one line; and what was made so far goes on when there is room."""
    _, frozen, text = pair

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(teacher_scores.os, "fsync", full)
        with pytest.raises(errors.UserError, match="the disk is full; make room"):
            kept(tmp_path, frozen, reading(text, 3))
    scores = kept(tmp_path, frozen, reading(text, 3))
    scores.path.write_bytes(scores.path.read_bytes()[:-1])
    with pytest.raises(errors.UserError, match="damaged; remove its folder"):
        kept(tmp_path, frozen, reading(text, 3))


@pytest.mark.slow
def test_rounds_learn_from_what_is_kept(tiny_settings, tmp_path, made_up_times):
    """The dense model reads once, for all rounds and controls; zeros stay zeros."""
    shape = {"pruning.sparsities": [0.5, 0.8], "training.steps": 4}
    taught = {**shape, **CACHED, "pruning.controls": ["random"]}
    run = api.run_pruning(tiny_settings(tmp_path / "run", **taught))
    (index,) = run.folder.glob("teacher/*/index.json")
    assert json.loads(index.read_text())["teacher"] == convert.digest(
        run.folder / "rounds/00/model"
    )
    plain = api.run_pruning(tiny_settings(tmp_path / "plain", **shape))
    assert run.rounds[0]["loss"] == plain.rounds[0]["loss"]
    assert run.rounds[1]["loss"] != plain.rounds[1]["loss"]
    _, params = convert.load(run.folder / "export")
    alive = masks.load(
        run.folder / "rounds/02/masks.safetensors", jax.tree.map(jnp.asarray, params)
    )
    for path, mask in tree.flatten(alive).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])
            assert (weights[~np.asarray(mask)] == 0).all()


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_stopped_run_with_kept_scores_ends_where_the_unbroken_one_does(
    tiny_settings, tmp_path, stop_at, made_up_times
):
    """Stopped while the teacher reads, and while the student trains."""
    shape = {
        "pruning.sparsities": [0.5],
        "training.steps": 5,
        "training.checkpoint_every_steps": 1,
        **CACHED,
    }
    whole = api.run_pruning(tiny_settings(tmp_path / "whole", **shape))
    stop_at(3, 9)
    stops = 0
    for _ in range(3):
        try:
            broken = api.run_pruning(tiny_settings(tmp_path / "broken", **shape))
        except errors.Stopped:
            stops += 1
    assert stops == 2
    for name in ("export/model.safetensors", "teacher/*/scores.bin"):
        one, other = (
            next(run.folder.glob(name)).read_bytes() for run in (whole, broken)
        )
        assert one == other


@pytest.mark.slow
@pytest.mark.very_slow
def test_structured_rounds_and_training_share_a_folder_of_scores(
    tiny_settings, tmp_path, made_up_times
):
    """Of the same teacher and text: the second run's teacher reads nothing."""
    shared = {
        "training.steps": 3,
        "distillation.cache_top_k": 8,
        "distillation.cache_dir": str(tmp_path / "shared"),
    }
    cut = tiny_settings(
        tmp_path / "cut",
        **shared,
        **{
            "pruning.structured": [{"what": "layers", "indices": [1]}],
            "distillation.teacher": "dense",
        },
    )
    assert np.isfinite(api.run_pruning(cut).rounds[-1]["loss"])
    (made,) = (tmp_path / "shared").glob("*/scores.bin")
    before = made.stat().st_mtime_ns
    training.train(
        tiny_settings(
            tmp_path / "train", **shared, **{"distillation.teacher": cut.model}
        )
    )
    assert [*(tmp_path / "shared").glob("*/scores.bin")] == [made]
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"cache_top_k": 0}, "distillation.cache_top_k: got 0"),
        ({"cache_dir": "x"}, "nothing is kept without cache_top_k"),
        ({"cache_top_k": 8, "cache_dir": "gs://a/b"}, "gs://a/b is no folder"),
        ({"cache_top_k": 8, "hidden_weight": 1.0}, "hidden_weight compares more"),
        ({"cache_top_k": 8, "attention_weight": 1.0}, "attention_weight compares more"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(tiny_settings, tmp_path, overrides, wanted):
    settings = {f"distillation.{key}": value for key, value in overrides.items()}
    with pytest.raises(errors.UserError, match=wanted):
        tiny_settings(
            tmp_path / "run", **settings, **{"distillation.teacher": "packaged"}
        )


def test_more_words_than_there_are_are_refused():
    """Before any work, as a teacher that does not fit is."""
    settings = config.Distillation(teacher="x", cache_top_k=62)
    with pytest.raises(errors.UserError, match="62 is more than the vocabulary's 61"):
        distillation.make(settings, objectives.LANGUAGE, STUDENT, TEACHER, name="x")


def test_labels_keep_no_scores(tiny_settings, tmp_path):
    """Their texts are read whole, may be augmented, and have few scores."""
    with pytest.raises(errors.UserError, match=r"keeps scores of tokens"):
        tiny_settings(
            tmp_path / "run",
            **{
                "task.kind": "classification",
                "data.valid": None,
                "distillation.teacher": "x",
                "distillation.cache_top_k": 8,
            },
        )
