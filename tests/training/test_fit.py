"""The loop as its caller sees it: resume, early stopping, divergence, logs."""

import json
import math

import chex
import jax
import numpy as np
import pytest

from gptjax import config, convert, errors, training


def losses(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["phase"], r["step"], r["loss"]) for r in records if "loss" in r]


def exported(out):
    return jax.tree.map(np.asarray, convert.load(out / "export")[1])


def test_a_run_leaves_what_it_promises(tiny_settings, tmp_path):
    """config, metrics, events, checkpoints, export, summary: each read by others."""
    done = training.train(tiny_settings(tmp_path / "run"))
    assert [step for _, step, _ in losses(done.folder)] == [1, 2, 3, 4, 5, 6]
    assert done.summary["end"]["perplexity"] < done.summary["start"]["perplexity"]
    assert "valid.txt, context 16, stride 16" in done.summary["end"]["protocol"]
    assert config.load(done.folder / "config.yaml").training.steps == 6
    assert list((done.folder / "tensorboard" / "train").glob("events*"))
    assert (done.folder / "checkpoints" / "train" / "6").is_dir()
    assert not list(done.folder.rglob("*.part"))


def test_a_run_stopped_by_a_signal_ends_bit_for_bit_as_the_unbroken_one(
    tiny_settings, tmp_path, stop_at
):
    """Optimizer, schedule, dropout, data and logs must all go on from one place."""
    training.train(tiny_settings(tmp_path / "whole"))
    stop_at(2, 5)
    broken = tiny_settings(tmp_path / "broken")
    for step in (2, 5):
        with pytest.raises(
            errors.Stopped, match=f"by SIGTERM after step {step} of train"
        ):
            training.train(broken)
    training.train(broken)
    chex.assert_trees_all_equal(
        exported(tmp_path / "broken"), exported(tmp_path / "whole")
    )
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_checkpoint_of_one_mesh_resumes_on_another(tiny_settings, tmp_path, stop_at):
    """Slices come and go in other sizes; the run should not care."""
    training.train(tiny_settings(tmp_path / "whole"))
    stop_at(3)
    with pytest.raises(errors.Stopped):
        training.train(tiny_settings(tmp_path / "moved"))
    other = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    training.train(tiny_settings(tmp_path / "moved", **other))
    for (_, _, ours), (_, _, expected) in zip(
        losses(tmp_path / "moved"), losses(tmp_path / "whole"), strict=True
    ):
        assert ours == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_of_it(
    tiny_settings, tmp_path
):
    """A NaN checkpoint is worse than none: it looks like progress."""
    diverging = {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1e20,
        "optimizer.warmup_steps": 5,
        "optimizer.clip_norm": None,
        "training.checkpoint_every_steps": 1,
    }
    with pytest.raises(errors.UserError) as caught:
        training.train(tiny_settings(tmp_path / "run", **diverging))
    message = str(caught.value)
    assert "train step " in message
    assert "of stream 0 (seed 0)" in message
    assert "last good checkpoint: " in message
    saved = sorted(int(p.name) for p in (tmp_path / "run/checkpoints/train").iterdir())
    assert message.endswith(str(tmp_path / "run/checkpoints/train" / str(saved[-1])))
    bad = int(message.split("train step ")[1].split(":")[0])
    assert saved[-1] == bad - 1
    assert not (tmp_path / "run" / "export").exists()
    assert all(math.isfinite(loss) for _, _, loss in losses(tmp_path / "run"))


def test_early_stopping_ends_with_the_best_checkpoint(tiny_settings, tmp_path):
    """The last state is by definition worse than the best one here."""
    done = training.train(
        tiny_settings(
            tmp_path / "run",
            **{
                "training.steps": 40,
                "training.evaluate_every_steps": 1,
                "training.early_stopping_evaluations": 2,
                "training.keep_checkpoints": 1,
                "optimizer.learning_rate": 3.0,
                "optimizer.schedule": "constant",
            },
        )
    )
    lines = (done.folder / "metrics.jsonl").read_text().splitlines()
    measured = [json.loads(line) for line in lines]
    measured = [r["valid_loss"] for r in measured if "valid_loss" in r]
    assert len(measured) < 40
    assert done.summary["end"]["loss"] == min(measured)


def test_a_folder_that_holds_another_run_is_refused(tiny_settings, tmp_path):
    """Going on with other settings would mix two runs into one."""
    training.train(tiny_settings(tmp_path / "run", **{"training.steps": 1}))
    with pytest.raises(errors.UserError, match=r"a run with training\.steps 1, not 6"):
        training.train(tiny_settings(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_without_validation_text_trains_all_the_same(tiny_settings, tmp_path):
    """Perplexity is then left out, not invented."""
    done = training.train(
        tiny_settings(tmp_path / "run", **{"data.valid": None, "training.steps": 2})
    )
    assert done.summary["start"] is None
    assert done.summary["end"] is None


def test_an_evaluation_is_told_and_may_end_the_run(tiny_settings, tmp_path):
    """A search stops bad trials so; what was saved before is not lost."""
    told = []

    def on_evaluation(phase, step, result):
        told.append((phase.name, step, result.perplexity))
        if step == 4:
            raise InterruptedError

    settings = tiny_settings(tmp_path, **{"training.evaluate_every_steps": 2})
    with pytest.raises(InterruptedError):
        training.train(settings, on_evaluation=on_evaluation)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    logged = [r for r in map(json.loads, lines) if "valid_perplexity" in r]
    assert told == [("train", r["step"], r["valid_perplexity"]) for r in logged]
    assert [step for _, step, _ in told] == [2, 4]
    del told[:]
    training.train(settings, on_evaluation=lambda phase, step, _: told.append(step))
    assert told == [4, 6]
