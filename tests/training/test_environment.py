"""A run folder says what its run was made with."""

import json
import subprocess

import jax
import pytest

from gptjax import errors, training
from gptjax.training import environment


def test_a_start_is_described(tmp_path):
    """Without versions and the commit nobody can repeat a run."""
    environment.record(tmp_path)
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert start["packages"]["jax"] == jax.__version__
    assert start["devices"] == 8
    assert start["command"]


def test_a_start_elsewhere_is_added_and_one_alike_is_not(tmp_path, monkeypatch):
    """A run that goes on with another jax is no longer one of the first."""
    environment.record(tmp_path)
    environment.record(tmp_path)
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1
    monkeypatch.setattr(environment, "_packages", lambda: {"jax": "0.0.1"})
    environment.record(tmp_path)
    first, second = json.loads((tmp_path / "environment.json").read_text())
    assert first["packages"]["jax"] == jax.__version__
    assert second["packages"] == {"jax": "0.0.1"}


def test_the_commit_is_that_of_the_folder_with_its_changes(tmp_path):
    """A commit alone would claim code that did not run."""

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert environment._commit.__wrapped__(str(tmp_path)) is None
    git("init", "-q")
    (tmp_path / "code").write_text("1")
    git("add", "code")
    git("commit", "-qm", "m")
    found = environment._commit.__wrapped__(str(tmp_path))
    assert found == {"commit": git("rev-parse", "HEAD"), "is_dirty": False}
    (tmp_path / "code").write_text("2")
    assert environment._commit.__wrapped__(str(tmp_path))["is_dirty"]


def test_a_run_that_never_began_leaves_no_trace_of_its_start(tiny_settings, tmp_path):
    """Else its folder would look like one of a run."""
    settings = tiny_settings(tmp_path / "run", **{"data.train": "nowhere.txt"})
    with pytest.raises(errors.UserError):
        training.train(settings)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
