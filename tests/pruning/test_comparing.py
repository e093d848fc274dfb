"""A comparison: its jobs, its rows, and going on where it was interrupted."""

import csv
import json

import pytest

from gptjax import config, errors, pruning, reporting
from gptjax.pruning.comparing import jobs

METHODS = [
    {"name": "by size", "pruning": {"schedule": "one-shot"}, "training": {"steps": 0}},
    {"name": "rounds", "pruning": {"controls": ["random"]}},
]
COMPARE = {"compare.methods": METHODS, "compare.sparsities": [0.5, 0.75]}


@pytest.mark.slow
def test_every_row_is_a_method_at_a_sparsity_with_a_seed(
    tiny_settings, tmp_path, made_up_times
):
    """A row of another run, or a control passed off as its method, would mislead."""
    settings = tiny_settings(
        tmp_path, **COMPARE, **{"compare.seeds": [0, 1], "training.steps": 2}
    )
    folder = pruning.compare(settings, after_job=reporting.write_comparison)
    with (folder / "compare.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == [
        "method",
        "pattern",
        "sparsity",
        "perplexity",
        "bytes_dense",
        "bytes_packed",
    ]
    told = {(r["method"], float(r["target_sparsity"]), int(r["seed"])) for r in rows}
    names = ("by size", "rounds", "rounds, random")
    assert len(rows) == len(told) == 12
    assert told == {(n, s, seed) for n in names for s in (0.5, 0.75) for seed in (0, 1)}
    for row in rows:
        if row["method"] == "by size":
            assert float(row["step_ratio"]) == 2
            # Without training, chance has no part in it.
            others = [r for r in rows if r["method"] == "by size"]
            same = [r for r in others if r["sparsity"] == row["sparsity"]]
            assert len({r["perplexity"] for r in same}) == 1
    report = json.loads(
        (folder / "runs/rounds-seed1/rounds/02/report.json").read_text()
    )
    (row,) = (
        r for r in rows if (r["method"], r["target_sparsity"]) == ("rounds", "0.75")
        and r["seed"] == "1"
    )  # fmt: skip
    assert float(row["perplexity"]) == report["perplexity"]
    # The last round's model is timed after the dense one, then its control, and so on.
    places = {
        ("rounds", "0.75"): 2,
        ("rounds, random", "0.75"): 3,
        ("rounds", "0.5"): 4,
        ("rounds, random", "0.5"): 5,
    }
    for row in rows:
        assert int(row["bytes_zipped"]) > 0
        place = places.get((row["method"], row["target_sparsity"]), 2)
        for what in ("step", "decode"):
            assert float(row[f"{what}_ratio"]) == place
            assert float(row[f"{what}_seconds"]) == place
        is_control = row["method"].endswith("random")
        assert (row["method_seconds"] == "") == is_control
    control = report["controls"]["random"]
    (row,) = (
        r for r in rows
        if (r["method"], r["target_sparsity"]) == ("rounds, random", "0.75")
        and r["seed"] == "1"
    )  # fmt: skip
    assert int(row["bytes_zipped"]) == control["bytes_zipped"]


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(
    tiny_settings, tmp_path, made_up_times, stop_at
):
    """A comparison of a night must not begin anew for its last row."""
    settings = tiny_settings(tmp_path, **COMPARE, **{"training.steps": 2})
    stop_at(1)
    told = []
    with pytest.raises(errors.Stopped):
        pruning.compare(settings, after_job=told.append)
    assert told == [tmp_path] * 2
    done = {path: path.read_bytes() for path in tmp_path.glob("rows/*.json")}
    assert done
    pruning.compare(settings, after_job=told.append)
    assert {path: path.read_bytes() for path in done} == done
    assert len(list(tmp_path.glob("rows/*.json"))) == 6


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"criterion": "wandda"}, "compare.methods.0 (m): pruning.criterion"),
        ({"sparsities": [0.5]}, "pruning.sparsities: give compare.sparsities"),
        ({"scoop": "row"}, "pruning.scoop: unknown key; did you mean scope?"),
    ],
)
def test_a_method_that_is_none_is_told_before_any_runs(method, message, tmp_path):
    """The last of twenty methods must not fail after the night of the others."""
    settings = config.load(
        None,
        {
            "model": "packaged",
            "out": str(tmp_path),
            "compare.methods": [{"name": "m", "pruning": method}],
        },
    )
    with pytest.raises(errors.UserError) as caught:
        jobs.planned(settings)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"pattern": 124}, "compare.methods.0: sparsities: a pattern N:M, masks_from"),
        ({"masks_from": "a"}, "compare.methods.0: sparsities: a pattern N:M"),
        (
            {"structured": [{"what": "layers", "count": 1}]},
            "compare.methods.0: sparsities: a pattern N:M",
        ),
        ({}, "compare: sparsities: every method brings its own"),
    ],
)
def test_sparsities_that_nothing_is_pruned_to_are_refused(section, message):
    """A row at another sparsity than the one asked for would pass for it."""
    method = {"name": "m", "pruning": section, "sparsities": [0.5]}
    values = {"compare.methods": [method], "compare.sparsities": [0.3]}
    with pytest.raises(errors.UserError) as caught:
        config.load(None, {"model": "packaged", "out": "x", **values})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_patterns_of_fixed_sparsity_make_one_job():
    """2:4 at 70 % is no such thing."""
    settings = config.load(
        None,
        {
            "model": "packaged",
            "out": "x",
            "compare.sparsities": [0.3, 0.7],
            "compare.methods": [
                {"name": "a", "pruning": {"schedule": "one-shot", "pattern": 124}},
                {"name": "b", "pruning": {"schedule": "one-shot"}},
                {"name": "c", "pruning": {}},
            ],
        },
    )
    planned = jobs.planned(settings)
    assert [(job.method, job.settings.pruning.targets()) for job in planned] == [
        ("a", (0.5,)),
        ("b", (0.3,)),
        ("b", (0.7,)),
        ("c", (0.3, 0.7)),
    ]
