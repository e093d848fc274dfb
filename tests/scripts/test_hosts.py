"""The scripts for TPU slices join their hosts and hand the rest to the command."""

import importlib.util
import pathlib
import sys

import jax
import pytest

from gptjax import cli

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
COMMANDS = ["compare", "convert", "evaluate", "generate", "prune", "train"]


@pytest.fixture
def calls(monkeypatch):
    """What was called, in order, instead of JAX's networking and the commands."""
    seen = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *hosts: seen.append(("join", *hosts))
    )
    monkeypatch.setattr(cli, "main", lambda argv: seen.append(("run", *argv)) or 3)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield seen
    sys.modules.pop("hosts", None)


def _start(monkeypatch, name, *arguments):
    """Runs a script as its process would; the exit code."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    spec = importlib.util.spec_from_file_location("script", SCRIPTS / f"{name}.py")
    with pytest.raises(SystemExit) as ended:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return ended.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_runs_its_command_and_exits_with_its_code(calls, monkeypatch, name):
    """A script that swallowed the exit code would make a failed run look done."""
    assert _start(monkeypatch, name, "a.yaml", "--debug", "x.y=1") == 3
    assert calls == [("run", name, "a.yaml", "--debug", "x.y=1")]


def test_hosts_that_find_each_other_join_before_the_command(calls, monkeypatch):
    """JAX refuses to be distributed once it has been used."""
    _start(monkeypatch, "train", "--distributed", "a.yaml")
    assert calls == [("join",), ("run", "train", "a.yaml")]


def test_hosts_can_be_named(calls, monkeypatch):
    """Two machines without a scheduler have no other way to find each other."""
    where = ["--coordinator", "host:1234", "--processes", "2", "--process", "0"]
    _start(monkeypatch, "train", *where, "a.yaml")
    assert calls == [("join", "host:1234", 2, 0), ("run", "train", "a.yaml")]


def test_half_named_hosts_are_refused(calls, monkeypatch):
    """A missing process number would leave the other hosts waiting."""
    assert _start(monkeypatch, "train", "--coordinator", "host:1234", "a.yaml") == 2
    assert calls == []
