"""The table, the CSV and the pictures of a comparison hold what its rows hold."""

import csv
import json
import pathlib
import re
import statistics
import xml.etree.ElementTree

import pytest

from gptjax import config, errors, reporting
from gptjax.pruning.comparing import jobs
from gptjax.reporting import comparison_table

PROTOCOL = "a text, context 256, stride 256"


def _row(method, sparsity, perplexity, *, pattern="unstructured", seed=0, **more):
    return {
        "method": method,
        "pattern": pattern,
        "sparsity": sparsity - 0.001,  # measured
        "target_sparsity": sparsity,
        "seed": seed,
        "perplexity": perplexity,
        "loss": 3.0,
        "protocol": PROTOCOL,
        "parameters": 1_000_000,
        "bytes_dense": 4_000_000,
        "bytes_packed": 2_400_000,
        "bytes_zipped": 2_200_000,
        "step_seconds": 0.5,
        "step_ratio": 1.01,
        "decode_seconds": 0.1,
        "decode_ratio": 0.99,
        "method_seconds": 2.5,
        "method_peak_bytes": 1_500_000_000,
        **more,
    }


DENSE = {
    "perplexity": 20.0,
    "loss": 2.99,
    "protocol": PROTOCOL,
    "parameters": 1_000_000,
    "bytes_dense": 4_000_000,
    "bytes_zipped": 3_600_000,
}
ROWS = [
    _row("magnitude", 0.7, 400.0),
    _row("magnitude", 0.5, 40.0),
    _row("wanda", 0.5, 30.0, seed=0),
    _row("wanda", 0.5, 33.0, seed=1),
    _row("wanda", 0.5, 36.0, seed=2),
    _row("wanda", 0.5, 45.0, pattern="2:4"),
]


@pytest.fixture
def folder(tmp_path):
    """A comparison of six rows."""
    (tmp_path / "rows").mkdir()
    for number, row in enumerate(ROWS):
        (tmp_path / "rows" / f"{number:03d}.json").write_text(json.dumps(row))
    (tmp_path / "compare.json").write_text(json.dumps({"dense": DENSE}))
    return tmp_path


def test_the_csv_has_a_line_for_each_row_and_its_columns_in_order(folder):
    """Scripts read these columns; rows averaged over seeds could not be checked."""
    reporting.write_comparison(folder)
    text = (folder / "compare.csv").read_text()
    start = "method,pattern,sparsity,perplexity,bytes_dense,bytes_packed,"
    assert text.startswith(start)
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(ROWS)
    for read, row in zip(rows, ROWS, strict=True):
        assert read == {key: str(row[key]) for key in comparison_table.COLUMNS}


def test_what_was_not_measured_is_empty_in_the_csv():
    """`None` would be read as a text."""
    (line,) = csv.DictReader(
        comparison_table.to_csv([_row("a", 0.5, 3.0, step_ratio=None)]).splitlines()
    )
    assert line["step_ratio"] == ""


def test_seeds_are_one_line_of_mean_and_standard_deviation(folder):
    """Of n - 1: three seeds are a sample, not all there are."""
    page = reporting.write_comparison(folder).read_text()
    spread = statistics.stdev([30.0, 33.0, 36.0])
    assert spread == 3.0
    (line,) = re.findall(r"\| wanda \| unstructured .*", page)
    assert line == (
        "| wanda | unstructured | 49.9% | 33.00 ± 3.00 | 2.4 MB, 60% | 2.2 MB | 1.01 "
        "| 0.99 | 2.5 | 1.5 GB | 3 |"
    )
    assert "| dense |  | 0.0% | 20.00 | - | 3.6 MB | 1.00 | 1.00 | - | - |  |" in page


def test_one_seed_has_no_spread(folder):
    """`± 0.00` would claim that it was measured."""
    page = reporting.write_comparison(folder).read_text()
    assert "| magnitude | unstructured | 49.9% | 40.00 |" in page


def test_a_ruined_seed_ruins_the_mean():
    """A mean over the seeds that went well would hide it."""
    ruined = [_row("a", 0.5, 3.0), _row("a", 0.5, float("inf"), seed=1)]
    assert comparison_table.spread_text(ruined) == "inf"


def test_methods_stand_in_the_order_of_their_perplexity(folder):
    """The verdict a reader looks for, not the order of the config."""
    said = comparison_table.sentences(ROWS, DENSE)
    assert said[0] == (
        "At 50.0%, best first: wanda 33.00 ± 3.00, magnitude 40.00, wanda 2:4 45.00."
    )
    assert not any(line.startswith("At 70.0%") for line in said)
    assert f"Perplexity by: {PROTOCOL}." in said
    assert "Means and standard deviations over 1 or 3 seeds." in said


@pytest.mark.parametrize(
    ("masked", "removed", "verdict"),
    [
        (
            [0.97, 1.02],
            [],
            "A training step: no speed-up from zeros alone on this backend: masked "
            "models take 0.97 to 1.02 times the dense time.",
        ),
        (
            [0.5, 0.9],
            [],
            "A training step of masked models takes 0.50 to 0.90 times the dense time.",
        ),
        (
            # One that is not faster, and the others may be noise.
            [0.5, 1.0],
            [],
            "A training step: no speed-up from zeros alone on this backend: masked "
            "models take 0.50 to 1.00 times the dense time.",
        ),
        (
            [],
            [0.6],
            "A training step of cut models takes 0.60 times the dense time.",
        ),
        (
            [1.0],
            [0.6],
            "A training step: no speed-up from zeros alone on this backend: masked "
            "models take 1.00 times the dense time. Where weights are removed it takes "
            "0.60 times that.",
        ),
    ],
)
def test_times_are_told_apart_by_what_became_of_the_weights(masked, removed, verdict):
    """Zeros and removal in one range would credit the one with the other's gain."""
    rows = [
        _row("zeros", 0.5, 3.0, step_ratio=ratio, decode_ratio=None) for ratio in masked
    ]
    rows += [
        _row("cut", 0.5, 3.0, pattern="removed", step_ratio=ratio, decode_ratio=None)
        for ratio in removed
    ]
    times = [s for s in comparison_table.sentences(rows, {}) if "training step" in s]
    assert times == [verdict]


def test_protocols_that_differ_are_said_to():
    """Perplexities of two protocols side by side are the oldest trick of all."""
    rows = [_row("a", 0.5, 3.0), _row("b", 0.5, 2.0, protocol="another")]
    said = comparison_table.sentences(rows, {})
    assert f"which do not compare: {PROTOCOL}; another." in said[-1]


def test_every_picture_the_page_shows_is_there_as_png_and_svg(folder):
    """A renamed picture would leave a broken image in the page."""
    page = reporting.write_comparison(folder)
    shown = re.findall(r"!\[.*\]\((\w+)\.png\)", page.read_text())
    assert shown == ["perplexity_sparsity", "perplexity_bytes", "method_cost"]
    for stem in shown:
        assert (page.parent / f"{stem}.png").read_bytes()[1:4] == b"PNG"
        drawn = xml.etree.ElementTree.parse(page.parent / f"{stem}.svg")
        text = "".join(drawn.getroot().itertext())
        assert "wanda 2:4" in text
    assert not (folder / "report.part").exists()


def test_writing_again_changes_no_byte(folder):
    """Dates and random ids in pictures would make every report a new one."""
    first = {
        p.name: p.read_bytes()
        for p in reporting.write_comparison(folder).parent.iterdir()
    }
    again = {
        p.name: p.read_bytes()
        for p in reporting.write_comparison(folder).parent.iterdir()
    }
    assert first == again


def test_a_comparison_under_way_has_a_report_too(folder):
    """Hours before the end, and before the dense model's figures are there."""
    (folder / "compare.json").unlink()
    for row in sorted((folder / "rows").iterdir())[1:]:
        row.unlink()
    assert "| magnitude |" in reporting.write_comparison(folder).read_text()


def test_the_terminal_table_fits_80_columns(folder, capsys, monkeypatch):
    """Beyond them rich cuts the figures short."""
    monkeypatch.setenv("COLUMNS", "80")
    reporting.write_comparison(folder)
    reporting.print_comparison(folder)
    shown = capsys.readouterr().out
    assert "…" not in shown
    for text in ("33.00 ± 3.00", "wanda 2:4", "1.5 GB", "dense", "compare.csv"):
        assert text in shown


def test_report_knows_a_comparison_from_a_run(folder):
    """`gptjax report` takes any folder that gptjax wrote."""
    assert reporting.write(folder) == folder / "report" / "compare.md"


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    """A mistyped folder would otherwise get an empty report."""
    with pytest.raises(errors.UserError, match="no comparison"):
        reporting.write_comparison(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [('{"method": 0', "not JSON"), ('{"method": "a"}', "without pattern, sparsity")],
)
def test_a_broken_row_is_named(folder, content, reason):
    """Half a file must not end in a traceback."""
    (folder / "rows" / "001.json").write_text(content)
    with pytest.raises(errors.UserError, match=rf"rows/001\.json: .*{reason}"):
        reporting.write_comparison(folder)


def test_a_comparison_under_way_says_how_far_it_is(folder):
    """Its table may still lack the method that will win."""
    configs = pathlib.Path(__file__).parents[2] / "configs"
    settings = config.load(configs / "compare_demo.yaml")
    (folder / "config.yaml").write_text(config.dump(settings))
    row = json.loads((folder / "rows/000.json").read_text())
    first, *others = jobs.planned(settings)

    def done(job):
        path = folder / f"rows/{job.name}.json"
        path.write_text(json.dumps({**row, "run": f"runs/{job.name}"}))

    done(first)
    page = reporting.write(folder)
    for path in (page, page.with_suffix(".html")):
        assert "Not finished: 1 of 3 runs done." in path.read_text()
    for job in others:
        done(job)
    assert "Not finished" not in reporting.write(folder).read_text()
