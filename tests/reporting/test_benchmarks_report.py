"""The page of benchmarks holds every ratio of their files, and nothing else."""

import json

import pytest

from gptjax import cli, errors, reporting

STEP = {
    "machine": {"device": "cpu", "devices": 1, "cores": 2, "processor": "P"},
    "benchmark": "step",
    "shapes": {
        "gpt2": {
            "dtype": "float32",
            "first_step_seconds": {"gptjax": 4.0},
            "tokens/s gptjax / torch": {"median": 1.31, "least": 1.2, "most": 1.4},
            "peak memory gptjax / torch": 0.71,
        }
    },
}
ROUND = {
    "benchmark": "round",
    "seconds": {"median": 9.0, "least": 8.0, "most": 10.0},
    "ratios": {"bytes of masks / of weights": {"median": 0, "least": 0, "most": 0}},
}


@pytest.fixture
def files_of(tmp_path):
    """A function (**figures) that writes files of figures; their paths."""

    def write(**figures):
        paths = [tmp_path / f"{name}.json" for name in figures]
        for path, value in zip(paths, figures.values(), strict=True):
            path.write_text(json.dumps(value))
        return paths

    return write


def test_the_page_holds_all_ratios_wherever_they_lie(files_of, capsys):
    """The files differ in depth: a ratio that is missed is missed silently."""
    paths = files_of(step=STEP, round=ROUND)
    assert cli.main(["report", *map(str, paths)]) == 0
    written = paths[0].parent / "benchmarks.md"
    assert capsys.readouterr().out == f"{written.with_suffix('.html')}\n"
    rows = [line for line in written.read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows if " / " in row] == [
        "| gpt2: tokens/s gptjax / torch | 1.31 | 1.20 | 1.40 |",
        "| gpt2: peak memory gptjax / torch | 0.71 | 0.71 | 0.71 |",
        "| bytes of masks / of weights | 0 | 0 | 0 |",
    ]
    assert "step.json: 1 x cpu, 2 cores of P" in written.read_text()
    svg = (paths[0].parent / "benchmarks.svg").read_text()
    for told in ("more is better", "less is better", "step: gpt2: tokens/s", "1.31"):
        assert told in svg


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ({"machine": {}}, "not the figures of a benchmark"),
        ([1], "not the figures of a benchmark"),
        ({"benchmark": "step", "seconds": 3}, "it holds no ratios"),
    ],
)
def test_a_file_of_no_benchmark_is_refused(files_of, figures, why):
    """Any JSON may be given by mistake, a run's summary for one."""
    with pytest.raises(errors.UserError, match=why):
        reporting.write_benchmarks(files_of(summary=figures))


def test_a_benchmark_that_is_not_there_is_named(tmp_path):
    """A shell that finds no match hands over the pattern itself."""
    with pytest.raises(errors.UserError, match="step: No such file"):
        reporting.write_benchmarks([tmp_path / "step"])
