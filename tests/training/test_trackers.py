"""Trackers get what the run folder gets, once, and never stand in a run's way."""

import json

import pytest

from gptjax import config, errors, training
from gptjax.training import logs, run
from gptjax.training.trackers import several


def _logged(folder):
    """Phase, step and the names of values, of every line of the run folder's log."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r.pop("phase"), r.pop("step"), *sorted(r)) for r in records]


@pytest.fixture
def tracker(monkeypatch):
    """A class of trackers that notes what it gets, and fails from a step on."""

    class Noted:
        seen, ids, closed, fails_at = [], [], 0, None

        def __init__(self, settings, known):
            self.id = known or f"id-{len(self.ids)}"
            self.ids.append(self.id)

        def write(self, phase, step, values):
            if self.fails_at is not None and step >= self.fails_at:
                raise ConnectionError("the server\nis gone")
            self.seen.append((phase, step, *sorted(values)))

        def close(self):
            type(self).closed += 1

    monkeypatch.setitem(several._OPEN, "wandb", Noted)
    monkeypatch.setattr(several, "_is_installed", lambda name: True)
    return Noted


def test_a_run_that_goes_on_goes_on_in_its_tracker(tracker, tiny_settings, tmp_path):
    """Steps after the last checkpoint come twice; a curve must not show them twice."""
    settings = tiny_settings(tmp_path, **{"logging.to": "wandb"})
    log = logs.MetricsLog(settings, is_main=True)
    for step in (1, 2, 3):
        log.write("train", step, loss=1.0 / step)
    # The process is killed; the next one goes on from a checkpoint of step 2.
    log = logs.MetricsLog(settings, is_main=True)
    log.resume("train", 2)
    log.write("train", 3, loss=1 / 3)
    log.write("train", 3, valid_perplexity=7.0)
    log.write("train", 4, loss=1 / 4)
    log.close()
    assert tracker.ids == ["id-0", "id-0"]
    assert tracker.seen == _logged(tmp_path)
    assert len({*tracker.seen}) == len(tracker.seen) == 5
    assert tracker.closed == 1


def test_a_tracker_that_is_new_to_a_run_gets_what_comes_again(
    tracker, tiny_settings, tmp_path
):
    """Its curve would else begin after the steps that are trained once more."""
    log = logs.MetricsLog(tiny_settings(tmp_path), is_main=True)
    for step in (1, 2, 3):
        log.write("train", step, loss=1.0)
    log.close()
    settings = tiny_settings(tmp_path, **{"logging.to": "wandb"})
    log = logs.MetricsLog(settings, is_main=True)
    log.resume("train", 1)
    for step in (2, 3, 4):
        log.write("train", step, loss=1.0)
    log.close()
    assert [step for _, step, _ in tracker.seen] == [2, 3, 4]


def test_a_tracker_is_told_of_the_end_of_a_run_that_breaks_off(
    tracker, tiny_settings, tmp_path, monkeypatch
):
    """It would show the run as if it went on, and the next trial's values with it."""

    def fit(trainer, *given, **more):
        trainer.log.write("train", 1, loss=1.0)
        raise errors.Diverged("loss nan")

    monkeypatch.setattr(run, "fit", fit)
    settings = tiny_settings(tmp_path, **{"logging.to": "wandb", "data.valid": None})
    with pytest.raises(errors.Diverged):
        training.train(settings)
    assert tracker.closed == 1


def test_only_the_first_process_tells_a_tracker(tracker, tiny_settings, tmp_path):
    """Every host would otherwise open a run of its own."""
    settings = tiny_settings(tmp_path, **{"logging.to": "wandb"})
    log = logs.MetricsLog(settings, is_main=False)
    log.write("train", 1, loss=1.0)
    log.close()
    assert tracker.ids == []


def test_a_tracker_that_fails_is_told_of_once_and_the_run_ends(
    tracker, tiny_settings, tmp_path, capsys
):
    """A network that fails at night must not cost the training."""
    tracker.fails_at = 3
    done = training.train(tiny_settings(tmp_path / "run", **{"logging.to": "wandb"}))
    assert done.summary["end"]["perplexity"] > 0
    assert [step for _, step, *_ in tracker.seen] == [1, 2]
    told = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert told == [
        "gptjax: logging.to: wandb failed and gets nothing more: the server is gone"
    ]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_missing_is_told_before_anything_else(
    name, tiny_settings, tmp_path, monkeypatch
):
    """After hours of training it would be too late."""
    monkeypatch.setattr(several, "_is_installed", lambda name: False)
    settings = tiny_settings(tmp_path / "run", **{"logging.to": name})
    with pytest.raises(errors.UserError, match=rf'pip install "gptjax\[{name}\]"'):
        training.train(settings)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_tracker_that_nobody_knows_is_refused(tiny_settings, tmp_path):
    """A misspelt name would log nothing and say nothing."""
    with pytest.raises(errors.UserError, match=r"logging\.to\.0: got 'wandbb'"):
        tiny_settings(tmp_path, **{"logging.to": ["wandbb"]})


def _run(tiny_settings, folder, stop_at, **more):
    """A run that is stopped after its third step, and goes on."""
    settings = tiny_settings(folder, **{"logging.project": "tried", **more})
    stop_at(3)
    with pytest.raises(errors.Stopped):
        training.train(settings)
    training.train(settings)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    own = json.loads((folder / "trackers.json").read_text())
    return settings, own, [(r["step"], r["loss"]) for r in records if "loss" in r]


def test_mlflow_has_the_curves_and_the_config(
    tiny_settings, tmp_path, stop_at, monkeypatch
):
    """Read back by MLflow's own client from the file that it wrote."""
    mlflow = pytest.importorskip("mlflow", reason="gptjax[mlflow] is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings, own, losses = _run(
        tiny_settings, tmp_path / "run", stop_at, **{"logging.to": "mlflow"}
    )
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tried'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == own["mlflow"]
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    history = client.get_metric_history(own["mlflow"], "train/loss")
    assert [(m.step, m.value) for m in history] == losses
    leaves = config.leaves(config.dump(settings))
    assert run.data.params == {key: str(value) for key, value in leaves.items()}


def test_trackio_has_the_curves_and_the_config(
    tiny_settings, tmp_path, stop_at, monkeypatch
):
    """Read back from where Trackio keeps them, by its own API."""
    pytest.importorskip("trackio", reason="gptjax[trackio] is not installed")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    settings, own, losses = _run(
        tiny_settings, tmp_path / "run", stop_at, **{"logging.to": "trackio"}
    )
    storage = sqlite_storage.SQLiteStorage
    assert storage.get_runs("tried") == [own["trackio"]]
    logs = storage.get_logs("tried", own["trackio"])
    assert [(r["step"], r["train/loss"]) for r in logs if "train/loss" in r] == losses
    kept = storage.get_run_config("tried", own["trackio"])
    assert kept["training"] == settings.model_dump(mode="json")["training"]


def test_wandb_has_the_curves_and_the_config(
    tiny_settings, tmp_path, stop_at, monkeypatch
):
    """Read back from the files that W&B keeps of a run without a network."""
    pytest.importorskip("wandb", reason="gptjax[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    _, own, losses = _run(
        tiny_settings, tmp_path / "run", stop_at, **{"logging.to": "wandb"}
    )
    pattern = f"offline-run-*-{own['wandb']}/*.wandb"
    parts = sorted((tmp_path / "run/wandb").glob(pattern))
    assert len(parts) == 2  # two starts of one run
    found = b"".join(path.read_bytes() for path in parts)
    assert found.count(b"train/loss") >= len(losses)
    for _, loss in losses:
        assert repr(loss).encode() in found
    assert b"learning_rate" in found
