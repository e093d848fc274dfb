"""Searches with nothing made up: killed, pruning, two processes at once."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import gptjax
from gptjax import api, config


def command(settings, path):
    """The command of a search, and an environment of one device and no greetings."""
    path.write_text(config.dump(settings))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return [sys.executable, "-m", "gptjax", "tune", str(path)], environment


def numbers(folder):
    with (folder / "trials.csv").open() as file:
        return [int(row["trial"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_killed_processes_share_a_study(search_settings, tmp_path):
    """One dies without a word, the other and a third finish its trials and theirs."""
    out = tmp_path / "out"
    # Two keys: only then are their importances drawn, by libraries that look for torch.
    tune = {
        "optimizer.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
        "optimizer.warmup_steps": {"low": 0, "high": 2},
    }
    overrides = {"mesh.fsdp": 1, "search.trials": 4, "tune": tune}
    settings = search_settings(out, **overrides)
    run, environment = command(settings, tmp_path / "run.yaml")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(run, env=environment, **quiet)
    while first.poll() is None and not list(out.glob("trials/*/metrics.jsonl")):
        time.sleep(0.05)
    first.kill()
    assert first.wait() == -signal.SIGKILL, "it was to be killed before its end"
    both = [subprocess.Popen(run, env=environment, **quiet) for _ in range(2)]
    for process in both:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert numbers(out) == list(range(4))
    assert len(list(out.glob("trials/*/summary.json"))) == 4
    assert (out / "report" / "report.md").is_file()


@pytest.mark.slow
def test_sparsities_of_layers_are_searched(search_settings, tmp_path, unmeasured):
    """Every trial prunes as much, and the best one's config gives its model again."""
    out = tmp_path / "out"
    weights = {"low": 0.25, "high": 4.0, "log": True}
    overrides = {
        "pruning.schedule": "one-shot",
        "pruning.sparsities": [0.5],
        "pruning.allocation": "weighted",
        "pruning.density_weights": {0: 1.0, 1: 1.0},
        "tune": {f"pruning.density_weights.{block}": weights for block in (0, 1)},
    }
    results = api.run_search(search_settings(out, **overrides))
    reports = [
        json.loads(path.read_text())
        for path in sorted(out.glob("trials/*/rounds/01/report.json"))
    ]
    done = [row["value"] for row in results.rows if row["value"] is not None]
    assert done == [r["perplexity"] for r in reports[: len(done)]]
    (zeros,) = {report["zeros"] for report in reports}
    assert zeros == round(0.5 * reports[0]["prunable"])
    layers = [
        report["sparsity_per_layer"]["blocks/mlp/up/kernel"] for report in reports
    ]
    assert len({tuple(each) for each in layers}) == len(layers)
    best = out / "trials" / f"{results.best['trial']:04d}"
    assert (best / "export" / "model.safetensors").is_file()
    again = gptjax.prune(out / "best.yaml")
    assert again.rounds[-1]["perplexity"] == results.best["value"]


@pytest.mark.slow
def test_the_best_config_trains_what_its_trial_did(search_settings, tmp_path):
    """best.yaml is a config like any other."""
    results = api.run_search(search_settings(tmp_path / "out"))
    run = gptjax.train(tmp_path / "out" / "best.yaml")
    assert run.summary["end"]["perplexity"] == results.best["value"]
