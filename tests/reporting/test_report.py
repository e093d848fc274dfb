"""The report of a run folder says what the folder holds, whole or interrupted."""

import csv
import json
import re
import xml.etree.ElementTree

import pytest
import rich.console

from gptjax import errors, reporting

PROTOCOL = "per token, context 256, stride 256"


def _round(number, sparsity, perplexity, controls=None):
    layers = {"blocks/attn/qkv/kernel": [sparsity, sparsity]}
    return {
        "round": number,
        "target_sparsity": sparsity,
        "sparsity": sparsity,
        "model_sparsity": sparsity / 2,
        "perplexity": perplexity,
        "protocol": PROTOCOL,
        "bytes_dense": 4_000_000,
        "bytes_packed": round(4_000_000 * (1 - sparsity / 2)),
        "sparsity_per_layer": {**layers, "blocks/mlp/up/kernel": [sparsity, 0.0]},
        "controls": {k: {"perplexity": p} for k, p in (controls or {}).items()},
    }


ROUNDS = [
    _round(0, 0.0, 50.0),
    _round(1, 0.5, 55.25, {"random": 90.0, "reinit": 120.0}),
    _round(2, 0.8, 70.5, {"random": 60.0}),
]
SUMMARY = {
    "model": "a-model",
    "start": {"perplexity": 244.0, "protocol": PROTOCOL},
}
SAMPLES = {"prompts": ["To be"], "texts": {"start": ["```\nor"], "02": ["not to be"]}}
METRICS = [
    {"phase": "00", "step": 10, "loss": 4.5},
    {"phase": "00", "step": 20, "loss": 4.0},
    {"phase": "00", "step": 20, "valid_perplexity": 50.0},
    {"phase": "01-random", "step": 10, "loss": 6.0},
]


@pytest.fixture
def folder(tmp_path):
    """A run folder in which a process died while writing metrics."""
    for report in ROUNDS:
        path = tmp_path / "rounds" / f"{report['round']:02d}"
        path.mkdir(parents=True)
        (path / "report.json").write_text(json.dumps(report))
    (tmp_path / "rounds" / "03").mkdir()  # begun, not done
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "samples.json").write_text(json.dumps(SAMPLES))
    lines = "".join(json.dumps(line) + "\n" for line in METRICS)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"phase": "02", "st')
    return tmp_path


def test_the_page_names_every_perplexity_and_its_protocol_once(folder):
    """A perplexity without its protocol can be compared with nothing."""
    page = reporting.write(folder).read_text()
    headline = page.splitlines()[2]
    for figure in ("244.00 at the start", "50.00 dense", "70.50 at 80.0% sparsity"):
        assert figure in headline
    assert headline.count(PROTOCOL) == 1


def test_protocols_that_differ_stand_beside_their_figures(folder):
    """One protocol for all would claim a comparison that was never made."""
    other = {"perplexity": 244.0, "protocol": "context 128"}
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "start": other}))
    headline = reporting.write(folder).read_text().splitlines()[2]
    assert "244.00 at the start (context 128)" in headline
    assert f"50.00 dense, trained ({PROTOCOL})" in headline


def test_a_control_that_wins_is_said_to_win(folder):
    """The report must not flatter: here the random mask is better at 80 %."""
    page = reporting.write(folder).read_text()
    line = next(line for line in page.splitlines() if line.startswith("- At 80.0%"))
    assert "does NOT beat a random mask" in line
    assert "70.50 against 60.00" in line


@pytest.mark.parametrize(
    ("barrier", "verdict"), [(0.001, ": stable"), (0.3, "NOT stable"), (None, "70.50.")]
)
def test_a_twin_is_no_rival_but_tells_stability(folder, barrier, verdict):
    """A round does not beat itself; what counts is whether the two end together."""
    twin = _round(2, 0.8, 70.5, {"twin": 70.0, "shuffle": 75.0})
    if barrier is not None:
        twin["controls"]["twin"]["barrier"] = barrier
    (folder / "rounds/02/report.json").write_text(json.dumps(twin))
    page = reporting.write(folder).read_text()
    (line,) = re.findall("- Trained again on other batches.*", page)
    assert "comes to perplexity 70.00, after 70.50" in line
    assert verdict in line
    assert "magnitude pruning beats its own mask shuffled" in page


@pytest.mark.parametrize(
    ("pruning", "name"),
    [("{criterion: wanda}", "wanda"), ("{structured: [{}]}", "structured")],
)
def test_the_criterion_is_called_what_the_config_calls_it(folder, pruning, name):
    """Every run was of magnitude once; a Wanda run must not be reported as one."""
    (folder / "config.yaml").write_text(f"pruning: {pruning}\n")
    page = reporting.write(folder)
    assert f"{name} pruning does NOT beat" in page.read_text()
    assert name in (page.parent / "sparsity_perplexity.svg").read_text()


def test_every_picture_the_page_shows_is_there_as_png_and_svg(folder):
    """A renamed picture would leave a broken image in the page."""
    page = reporting.write(folder)
    shown = re.findall(r"!\[.*\]\((\w+)\.png\)", page.read_text())
    assert sorted(shown) == ["layer_sparsity", "sparsity_perplexity", "training_curves"]
    for stem in shown:
        assert (page.parent / f"{stem}.png").read_bytes()[1:4] == b"PNG"
        xml.etree.ElementTree.parse(page.parent / f"{stem}.svg")


def test_writing_again_changes_no_byte(folder):
    """Dates and random ids in pictures would make every report a new one."""
    first = {p.name: p.read_bytes() for p in reporting.write(folder).parent.iterdir()}
    again = {p.name: p.read_bytes() for p in reporting.write(folder).parent.iterdir()}
    assert first == again
    assert not (folder / "report.part").exists()


def test_the_csv_holds_the_unrounded_figures(folder):
    """Whoever plots for a paper needs more than the table's two decimals."""
    path = reporting.write(folder).with_name("rounds.csv")
    rows = list(csv.DictReader(path.open()))
    assert [float(r["perplexity"]) for r in rows] == [50.0, 55.25, 70.5]
    assert [r["perplexity_random"] for r in rows] == ["", "90.0", "60.0"]
    assert rows[2]["bytes_packed"] == "2400000"


def test_the_sample_cannot_break_out_of_its_fence(folder):
    """A model may write backticks; the page below them would turn into code."""
    page = reporting.write(folder).read_text()
    assert "````text\n```\nor\n````" in page


def test_the_terminal_table_fits_80_columns(folder):
    """Beyond them rich cuts the titles short."""
    console = rich.console.Console(width=80)
    with console.capture() as shown:
        console.print(reporting.rich_table(reporting.read(folder).rounds))
    assert "…" not in shown.get()
    for text in ("perplexity", "reinit", "70.50", "2.4 MB, 60%"):
        assert text in shown.get()


def test_the_terminal_shows_samples_as_they_are(folder, capsys):
    """rich would take `[red]` for markup and `:cat:` for a picture."""
    texts = {"start": [" [red] :cat:"], "02": [" be"]}
    samples = {"prompts": ["To"], "texts": texts}
    (folder / "samples.json").write_text(json.dumps(samples))
    (folder / "export").mkdir()
    reporting.print_run(folder)
    shown = capsys.readouterr().out
    assert "To [red] :cat:" in shown
    assert "does NOT beat a random mask" in shown
    assert f"{folder / 'export'}  loads in transformers" in shown


def test_a_run_that_only_trained_has_a_report_too(folder):
    """Fine-tuning writes no rounds; its curves are worth a page all the same."""
    for path in (folder / "rounds").glob("*/report.json"):
        path.unlink()
    end = {"perplexity": 49.0, "protocol": PROTOCOL}
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "end": end}))
    page = reporting.write(folder).read_text()
    assert "244.00 at the start, 49.00 at the end." in page
    assert "training_curves.png" in page
    assert "## Rounds" not in page


def test_a_ruined_model_is_reported_not_hidden(folder):
    """Perplexities that overflow must break neither table nor pictures."""
    ruined = _round(2, 0.8, float("inf"), {"random": 2e10})
    (folder / "rounds/02/report.json").write_text(json.dumps(ruined))
    page = reporting.write(folder).read_text()
    assert "| inf |" in page
    assert "| 2.0e+10 |" in page


@pytest.mark.parametrize("content", ['{"round": 0', "\xff"])
def test_a_broken_report_is_named(folder, content):
    """Half a file must not end in a traceback."""
    path = folder / "rounds/01/report.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(errors.UserError, match=r"rounds/01/report\.json: not JSON"):
        reporting.write(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    """A mistyped folder would otherwise get an empty report."""
    with pytest.raises(errors.UserError, match="no run folder"):
        reporting.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
