"""The scripts for TPU slices join their hosts and hand the rest to the command."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from gptjax import __main__, assets

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
COMMANDS = ["compare", "convert", "evaluate", "generate", "prune", "train"]
TORCHRUN = {
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "16",
    "RANK": "9",
}


@pytest.fixture
def calls(monkeypatch):
    """What was called, in order, instead of JAX's networking and the commands."""
    seen = []
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *hosts, **how: seen.append(("join", *hosts, *how.values())),
    )
    monkeypatch.setattr(__main__, "main", lambda argv: seen.append(("run", *argv)) or 3)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in [*TORCHRUN, "LOCAL_RANK", "LOCAL_WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
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


@pytest.mark.parametrize(
    ("more", "joined"),
    [
        ({}, ("host:29500", 16, 9, None)),
        ({"LOCAL_RANK": "1"}, ("host:29500", 16, 9, [1])),
        (
            {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
            ("host:29500", 16, 9, [1]),
        ),
        (
            {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
            ("host:29500", 16, 9, None),
        ),
        (
            {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            ("host:29501", 16, 9, None),
        ),
    ],
    ids=["bare", "local rank", "a process a GPU", "a process a host", "torchrun"],
)
def test_hosts_join_as_torchrun_says(calls, monkeypatch, more, joined):
    """Eight processes that each took all GPUs of their host would fight for memory; a
    coordinator where torchrun listens itself would not start."""
    for name, value in {**TORCHRUN, **more}.items():
        monkeypatch.setenv(name, value)
    _start(monkeypatch, "train", "--distributed", "a.yaml")
    assert calls == [("join", *joined, "deactivate"), ("run", "train", "a.yaml")]


def test_some_of_torchruns_variables_are_none(calls, monkeypatch):
    """MASTER_ADDR alone stands in many a Slurm script, and says nothing of ranks."""
    monkeypatch.setenv("MASTER_ADDR", "host")
    _start(monkeypatch, "train", "--distributed", "a.yaml")
    assert calls == [("join",), ("run", "train", "a.yaml")]


def test_a_rank_that_is_no_number_is_refused(calls, monkeypatch, capsys):
    """A variable that a launcher left unfilled would end in a traceback."""
    for name, value in {**TORCHRUN, "RANK": "$RANK"}.items():
        monkeypatch.setenv(name, value)
    assert _start(monkeypatch, "train", "--distributed", "a.yaml") == 2
    assert "RANK=$RANK: not a number" in capsys.readouterr().err
    assert calls == []


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_join(tmp_path):
    """Its own store listens at MASTER_PORT, which no stand-in would tell."""
    out = tmp_path / "run"
    overrides = {
        "out": out,
        "mesh.fsdp": 2,
        "mesh.data": 1,
        "data.cache_dir": tmp_path / "cache",
        "data.valid": "null",
        "data.sequence_tokens": 32,
        "training.batch_sequences": 2,
        "training.steps": 1,
        "training.checkpoint_every_steps": 0,
        "optimizer.warmup_steps": 0,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *(SCRIPTS / "train.py", "--distributed", assets.demo_config()),
            *(f"{key}={value}" for key, value in overrides.items()),
        ],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # On two devices, one of each process, or mesh.fsdp would have been refused.
    assert (out / "export" / "model.safetensors").exists()
