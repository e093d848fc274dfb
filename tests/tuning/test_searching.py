"""A search: resumed it ends as an unbroken one; what it leaves can be used."""

import csv
import json
import math
import pathlib
import signal

import pytest

from gptjax import api, cli, config, errors, evaluation, training
from gptjax.tuning import pictures
from gptjax.tuning import trial as trial_lib

DRAW = pictures.draw


def result(perplexity):
    return evaluation.Perplexity(
        nll_sum=math.log(perplexity),
        tokens=2,
        predicted=1,
        context=2,
        stride=2,
        dtype="float32",
    )


@pytest.fixture
def made_up_runs(monkeypatch):
    """Runs without training: the further from 0.003 the rate, the worse the model.

    Above 0.05 they diverge. Gives the folders of those that were begun.
    """
    begun = []

    def finish(settings, *, concludes, on_evaluation=training.ignore):
        rate, folder = settings.optimizer.learning_rate, pathlib.Path(settings.out)
        begun.append(folder.name)
        (folder / "export").mkdir(parents=True, exist_ok=True)
        (folder / "export" / "model.safetensors").write_bytes(b"weights")
        (folder / "metrics.jsonl").write_text("")
        if rate > 0.05:
            raise errors.Diverged("train step 1: loss nan")
        perplexity = 10 + math.log10(rate / 0.003) ** 2 + settings.seed
        for step in (2, 4):
            phase = training.Phase(name="train", start=0, end=4)
            on_evaluation(phase, step, result(perplexity))
        return result(perplexity).to_json()

    monkeypatch.setattr(trial_lib, "finish", finish)
    # What is drawn has a test of its own; it takes longest.
    monkeypatch.setattr(pictures, "draw", lambda *given: {})
    return begun


def values(results):
    return [(row["state"], row["value"], row["values"]) for row in results.rows]


def test_bad_trials_are_stopped_and_diverged_ones_end_nothing(
    search_settings, tmp_path, made_up_runs
):
    """A diverged trial must tell the sampler where not to look, and no more."""
    settings = search_settings(tmp_path / "out", **{"search.trials": 12})
    results = api.run_search(settings)
    states = {row["trial"]: row["state"] for row in results.rows}
    assert list(states) == list(range(12))
    assert set(states.values()) == {"done", "stopped"}
    diverged = [r for r in results.rows if "diverged" in r["note"]]
    assert diverged
    for row in results.rows:
        is_diverged = row["values"]["optimizer.learning_rate"] > 0.05
        assert is_diverged == (row in diverged)
        if row["state"] == "stopped" and not is_diverged:
            # Worse than the median of those before it, at the first evaluation.
            before = [r["curve"][2] for r in results.rows[: row["trial"]] if r["value"]]
            assert list(row["curve"]) == [2]
            assert row["curve"][2] > sorted(before)[(len(before) - 1) // 2]
    assert any(r["state"] == "stopped" and r not in diverged for r in results.rows)
    best = min(r["value"] for r in results.rows if r["value"] is not None)
    assert results.best["value"] == best < results.own["value"]


@pytest.mark.parametrize(
    "search",
    [
        {"pruner": "asha"},
        {"pruner": "hyperband", "sampler": "random"},
        {"pruner": "none", "storage": "sqlite:///{out}.db"},
    ],
    ids=lambda search: search["pruner"],
)
def test_other_pruners_and_storages_search_too(
    search_settings, tmp_path, made_up_runs, search
):
    """Each is another part of optuna, with arguments of its own."""
    out = tmp_path / "out"
    changed = {f"search.{key}": value.format(out=out) for key, value in search.items()}
    results = api.run_search(search_settings(out, **changed, **{"search.trials": 12}))
    stopped = {row["note"] for row in results.rows if row["state"] == "stopped"}
    stopped = {note for note in stopped if "diverged" not in note}
    assert bool(stopped) == (search["pruner"] != "none")
    assert len(results.rows) == 12
    assert (out / "study.journal").exists() == ("storage" not in search)


def test_what_a_search_leaves(search_settings, tmp_path, made_up_runs, monkeypatch):
    """The best config is one of its own; the disk holds one trial's weights."""
    out = tmp_path / "out"
    changed = {"search.trials": 6, "search.confirm_seeds": [1, 2]}
    monkeypatch.setattr(pictures, "draw", DRAW)
    results = api.run_search(search_settings(out, **changed))
    best = config.load(out / "best.yaml")
    wanted = results.best["values"]["optimizer.learning_rate"]
    assert best.optimizer.learning_rate == wanted
    assert (best.tune, best.search, best.out) == ({}, None, str(out / "best"))
    assert best.logging.name == "out-best"
    kept = [path.parts[-3] for path in out.glob("trials/*/export/*.safetensors")]
    assert kept == [f"{results.best['trial']:04d}"]
    assert len(list(out.glob("trials/*/metrics.jsonl"))) == 6
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = [float(row["perplexity"]) if row["perplexity"] else None for row in rows]
    assert told == [row["value"] for row in results.rows]
    page = (out / "report" / "report.md").read_text()
    html = (out / "report" / "report.html").read_text()
    assert html.count("<svg") >= 3
    assert "Search for settings" in html
    assert "Versions of packages" in html
    for stem in ("history", "slices", "evaluations"):
        assert f"({stem}.png)" in page
        assert (out / "report" / f"{stem}.png").stat().st_size > 5000
    assert "| trial | learning_rate | perplexity |" in page
    share = 1 - results.best["value"] / results.own["value"]
    assert f"the best is {share:.1%} below" in page
    # Seeds 1 and 2 add 1 and 2 to every perplexity.
    mean = [results.best["value"] + 1.5, results.own["value"] + 1.5]
    spread = "± 0.707"
    assert f"perplexity {mean[0]:.3f} {spread} with the best values" in page
    assert f"{mean[1]:.3f} {spread} with the config's own" in page
    assert "ahead in 2 of 2" in page


def test_a_finished_search_does_nothing_twice(search_settings, tmp_path, made_up_runs):
    """And more trials go on from those that are there."""
    first = api.run_search(search_settings(tmp_path / "out"))
    assert made_up_runs == ["0000", "0001", "0002"]
    assert values(api.run_search(search_settings(tmp_path / "out"))) == values(first)
    assert len(made_up_runs) == 3
    more = api.run_search(search_settings(tmp_path / "out", **{"search.trials": 5}))
    assert values(more)[:3] == values(first)
    assert made_up_runs[3:] == ["0003", "0004"]


def test_another_search_in_the_same_folder_is_refused(
    search_settings, tmp_path, made_up_runs
):
    """Trials of two configs do not compare."""
    api.run_search(search_settings(tmp_path / "out"))
    changed = {"training.batch_sequences": 16}
    with pytest.raises(errors.UserError, match=r"training\.batch_sequences 8, not 16"):
        api.run_search(search_settings(tmp_path / "out", **changed))
    space = {"optimizer.learning_rate": {"low": 0.001, "high": 0.1}}
    with pytest.raises(errors.UserError, match=r"with tune\.optimizer\.learning_rate"):
        api.run_search(search_settings(tmp_path / "out", tune=space))


def test_what_fails_again_and_again_ends_the_search(
    search_settings, tmp_path, made_up_runs, monkeypatch
):
    """A trial that no run can be made of is told and passed; three are too many."""

    def fail(settings, **given):
        if settings.optimizer.learning_rate != 0.01:
            raise errors.UserError("no room on the disk")
        return result(11.0).to_json()

    monkeypatch.setattr(trial_lib, "finish", fail)
    with pytest.raises(errors.UserError, match="trial 3: no room on the disk"):
        api.run_search(search_settings(tmp_path / "out"))
    monkeypatch.setattr(trial_lib, "finish", lambda *a, **k: result(12.0).to_json())
    results = api.run_search(search_settings(tmp_path / "out"))
    states = [row["state"] for row in results.rows]
    assert states == ["done", "failed", "failed", "failed", "done", "done"]

    def fail_all(settings, **given):
        raise errors.UserError("data.train: no such file")

    monkeypatch.setattr(trial_lib, "finish", fail_all)
    with pytest.raises(errors.UserError, match=r"trial 0: data\.train: no such file"):
        api.run_search(search_settings(tmp_path / "other"))
    # Nothing is left that a mended config would be refused for.
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["study.lock"]
    monkeypatch.setattr(trial_lib, "finish", lambda *a, **k: result(12.0).to_json())
    mended = {"training.batch_sequences": 16}
    results = api.run_search(search_settings(tmp_path / "other", **mended))
    assert [row["state"] for row in results.rows] == ["done"] * 3


def test_a_signal_between_trials_stops_the_search(
    search_settings, tmp_path, made_up_runs, monkeypatch, capsys
):
    """The exit code is that of a signal, and there is no traceback."""
    own = trial_lib.finish

    def stop(settings, **given):
        if settings.out.endswith("0001"):
            signal.raise_signal(signal.SIGTERM)
        return own(settings, **given)

    monkeypatch.setattr(trial_lib, "finish", stop)
    path = tmp_path / "run.yaml"
    path.write_text(config.dump(search_settings(tmp_path / "out")))
    assert cli.main(["tune", str(path)]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM between two trials" in capsys.readouterr().err
    monkeypatch.setattr(trial_lib, "finish", own)
    assert cli.main(["tune", str(path)]) == 0
    assert made_up_runs == ["0000", "0001", "0002"]
    assert "Best: trial" in capsys.readouterr().out


def test_nothing_to_search_is_told(tiny_settings, tmp_path):
    with pytest.raises(errors.UserError, match="tune: missing"):
        api.run_search(tiny_settings(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_search_that_was_stopped_ends_as_an_unbroken_one(
    search_settings, tmp_path, stop_at
):
    """A sampler or a trial that starts afresh would draw or train something else."""
    shorter = {"search.trials": 2}
    unbroken = api.run_search(search_settings(tmp_path / "whole", **shorter))
    stop_at(3)
    broken = search_settings(tmp_path / "broken", **shorter)
    with pytest.raises(errors.Stopped):
        api.run_search(broken)
    assert [p.name for p in (tmp_path / "broken" / "trials").iterdir()] == ["0000"]
    logged = tmp_path / "broken" / "trials" / "0000" / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in logged.read_text().splitlines()]
    assert max(steps) < 4
    resumed = api.run_search(broken)
    assert values(resumed) == values(unbroken)
    assert [row["curve"] for row in resumed.rows] == [
        row["curve"] for row in unbroken.rows
    ]
