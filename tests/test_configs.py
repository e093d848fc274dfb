"""Every recipe of configs/ runs, on the packaged model and for a few steps."""

import math
import pathlib

import pytest

import gptjax
from gptjax import assets, config, pairing

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.yaml"))
COMPARISONS = [path for path in CONFIGS if path.stem.startswith("compare_")]
CURVE = next(path for path in CONFIGS if path.stem == "curve")
RUNS = [path for path in CONFIGS if path not in (*COMPARISONS, CURVE)]
# A kind of run each; the others differ in sizes.
SOON = (
    *("adversarial", "classify", "gpt2_prune", "gpt2_structured"),
    *("instructions", "lora", "quantized", "several", "tagging", "tune_layers"),
)


def _often(paths, soon):
    """Those of `soon` among the slow tests, the others among the very slow ones."""
    return [
        path if path.stem in soon else pytest.param(path, marks=pytest.mark.very_slow)
        for path in paths
    ]


def shortened(folder, task="language"):
    """Overrides for what a small machine cannot do: the model, the text, lengths."""
    if task in ("classification", "tagging"):
        # Of a tag for each of two words, or of a label of two letters for both.
        gap = " " if task == "tagging" else ""
        rows = "".join(f"{'ab'[n % 2]}{gap}c,{'xy'[n % 2]} {n}\n" for n in range(64))
        (folder / "labelled.csv").write_text("label,text\n" + rows)
        return {
            "model": "packaged",
            "out": str(folder / "run"),
            "data.train": str(folder / "labelled.csv"),
            "data.valid": None,
            "data.cache_dir": str(folder / "cache"),
            "training.steps": 2,
            "optimizer.warmup_steps": 1,
        }
    if task == "instructions":
        sources = {
            style: config.Source(path=str(assets.text(f"{style}.valid")))
            for style in ("shakespeare", "austen")
        }
        changes = config.Augmentation(operations={"deletion": 1.0})
        made = folder / "pairs.jsonl"
        pairing.write(sources, made, changes, words=20, count=40, plain=0.25, seed=0)
        return {
            "model": "packaged",
            "out": str(folder / "run"),
            "data.train": str(made),
            "data.valid": None,
            "data.cache_dir": str(folder / "cache"),
            "training.steps": 2,
            "optimizer.warmup_steps": 1,
        }
    return {
        "model": "packaged",
        "out": str(folder / "run"),
        "data.train": str(assets.text("shakespeare.valid")),
        "data.valid": str(assets.text("austen.test")),
        "data.cache_dir": str(folder / "cache"),
        "data.sequence_tokens": 16,
        "training.steps": 2,
        "optimizer.warmup_steps": 1,
        "evaluation.context_tokens": 16,
        "evaluation.stride_tokens": 16,
        "evaluation.limit_tokens": 512,
        "evaluation.sample_tokens": 4,
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", _often(RUNS, SOON), ids=lambda path: path.stem)
def test_every_config_runs(path, tmp_path, made_up_times):
    """Keys that load may still not fit together: batches, mesh, dtypes, rounds.

    Only what a small machine cannot do is overridden: the model, the text, lengths.
    """
    settings = config.load(path)
    overrides = shortened(tmp_path, settings.task.kind)
    for name in settings.auxiliary:
        overrides[f"auxiliary.{name}.data.sequence_tokens"] = 16
    if path.stem == "instructions":
        del overrides["data.train"]  # its examples ship
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
    assert math.isfinite(run.summary["end"]["loss"])
    assert (run.folder / "export" / "model.safetensors").is_file()
    assert (run.folder / "report" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", _often(COMPARISONS, ["compare_demo"]), ids=lambda path: path.stem
)
def test_every_comparison_runs(path, tmp_path, made_up_times):
    """Each of its methods must fit the others' text, lengths and sparsities."""
    settings = config.load(path)
    overrides = shortened(tmp_path) | {
        "training.steps": min(settings.training.steps, 2),
        "training.batch_sequences": 8,
        "optimizer.warmup_steps": 0,
        "calibration.text": None,
        "calibration.sequences": 4,
        "calibration.sequence_tokens": None,
        "compare.sparsities": [0.5],
        "compare.seeds": [0],
    }
    done = gptjax.compare(path, **overrides)
    told = {row["method"] for row in done.rows}
    assert {method.name for method in settings.compare.methods} <= told
    assert all(math.isfinite(row["perplexity"]) for row in done.rows)
    assert (done.folder / "compare.csv").is_file()
    assert (done.folder / "report" / "compare.md").is_file()


@pytest.mark.slow
def test_the_learning_curve_runs(tmp_path):
    """With augmentation and without, on texts that take no time."""
    overrides = shortened(tmp_path, "classification")
    overrides |= {"data.valid": overrides["data.train"], "data.sequence_tokens": 16}
    sizes = {"curve.sizes": [8, "all"], "curve.seeds": [0]}
    rows = gptjax.curve(CURVE, **overrides, **sizes)
    assert [row["augmented"] for row in rows] == [False, True] * 2
    assert all(math.isfinite(row["loss"]) for row in rows)
