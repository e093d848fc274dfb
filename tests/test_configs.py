"""Every recipe of configs/ runs, on the packaged model and for a few steps."""

import math
import pathlib

import pytest

import gptjax
from gptjax import assets, config

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(path, tmp_path):
    """Keys that load may still not fit together: batches, mesh, dtypes, rounds.

    Only what a small machine cannot do is overridden: the model, the text, lengths.
    """
    overrides = {
        "model": "packaged",
        "out": str(tmp_path / "run"),
        "data.train": str(assets.text("shakespeare.valid")),
        "data.valid": str(assets.text("austen.test")),
        "data.cache_dir": str(tmp_path / "cache"),
        "data.sequence_tokens": 16,
        "training.steps": 2,
        "optimizer.warmup_steps": 1,
        "evaluation.context_tokens": 16,
        "evaluation.stride_tokens": 16,
        "evaluation.limit_tokens": 512,
        "evaluation.sample_tokens": 4,
    }
    settings = config.load(path)
    if settings.pruning is None:
        run = gptjax.train(path, **overrides)
    else:
        rounds = 1
        if settings.pruning.structured:
            overrides["calibration.sequences"] = 8
            rounds = len(settings.pruning.structured)
        elif settings.pruning.sparsities:
            overrides["pruning.sparsities"] = [0.5]
        else:
            overrides["pruning.rounds"] = 1
        run = gptjax.prune(path, **overrides)
        assert [r["round"] for r in run.rounds] == list(range(rounds + 1))
    assert math.isfinite(run.summary["end"]["perplexity"])
    assert (run.folder / "export" / "model.safetensors").is_file()
    assert (run.folder / "report" / "report.md").is_file()
