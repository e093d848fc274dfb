"""A real process, killed without warning at any moment, goes on as if it never was."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from gptjax import config, convert


def command(settings, path):
    """The command of a run, and an environment of one device and no greetings."""
    path.write_text(config.dump(settings))
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    return [sys.executable, "-m", "gptjax", "train", str(path)], environment


def exported(folder):
    return jax.tree.map(np.asarray, convert.load(folder / "export")[1])


def losses(folder):
    """The log without its timings."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line.split(', "tokens_per_second"')[0] for line in lines]


def lines_in(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing_in_the_end(tiny_settings, tmp_path):
    """Half-written checkpoints, logs and configs are what a power cut leaves."""
    overrides = {
        "mesh.fsdp": 1,
        "training.steps": 60,
        "training.checkpoint_every_steps": 1,
        "training.evaluate_every_steps": 20,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run, environment = command(
        tiny_settings(whole, **overrides), tmp_path / "whole.yaml"
    )
    subprocess.run(run, env=environment, check=True, capture_output=True)

    run, environment = command(
        tiny_settings(broken, **overrides), tmp_path / "broken.yaml"
    )
    moments = random.Random(0)
    for _ in range(4):
        before = lines_in(broken / "metrics.jsonl")
        process = subprocess.Popen(
            run,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wanted = before + moments.randrange(1, 12)
        while process.poll() is None and lines_in(broken / "metrics.jsonl") < wanted:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was to be killed before its end"

    # And one checkpoint that was being written: orbax's name for it, half its files.
    checkpoints = broken / "checkpoints" / "train"
    newest = max(
        int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()
    )
    half = checkpoints / f"{newest + 1}.orbax-checkpoint-tmp"
    shutil.copytree(checkpoints / str(newest), half, dirs_exist_ok=True)
    for path in list(half.rglob("*"))[::2]:
        if path.is_file():
            path.unlink()

    subprocess.run(run, env=environment, check=True, capture_output=True)
    chex.assert_trees_all_equal(exported(broken), exported(whole))
    assert losses(broken) == losses(whole)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_its_own_code(tiny_settings, tmp_path):
    """Preemptible machines give some seconds; a scheduler reads the exit code."""
    settings = tiny_settings(
        tmp_path / "run", **{"mesh.fsdp": 1, "training.steps": 100_000}
    )
    run, environment = command(settings, tmp_path / "run.yaml")
    process = subprocess.Popen(
        run,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while process.poll() is None and not lines_in(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.05)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "gptjax: stopped by SIGTERM after step" in stderr
    assert "Traceback" not in stderr
    assert any((tmp_path / "run" / "checkpoints" / "train").iterdir())
