"""Several runs on one page: what compares is compared, what does not is kept apart."""

import json

import pytest

from gptjax import cli, errors, reporting


@pytest.fixture
def run(tmp_path):
    """A function (name, protocol=..., **config) that makes a pruning run's folder."""

    def make(name, *, protocol="context 256", ends=True, rounds=(0.0, 0.5), **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        result = {"perplexity": 244.0, "protocol": protocol}
        summary = {"model": "m", "start": result}
        if ends:
            summary["end"] = {**result, "perplexity": 61.5}
        (folder / "summary.json").write_text(json.dumps(summary))
        for number, sparsity in enumerate(rounds):
            path = folder / "rounds" / f"{number:02d}"
            path.mkdir(parents=True)
            report = {
                "round": number,
                "sparsity": sparsity,
                "model_sparsity": sparsity / 2,
                "perplexity": 60.0 + number,
                "protocol": protocol,
                "bytes_dense": 4_000_000,
                "bytes_packed": 3_000_000,
                "controls": {},
            }
            (path / "report.json").write_text(json.dumps(report))
        keys = {"out": str(folder), "seed": 0, **config}
        text = "".join(f"{key}: {value}\n" for key, value in keys.items())
        (folder / "config.yaml").write_text(text)
        lines = [
            {"phase": phase, "step": step, "loss": 1.0 / step, "learning_rate": 0.1}
            for phase in ("00", "01", "01-random")
            for step in (1, 2)
        ]
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(log)
        return folder

    return make


def _page(*folders):
    return reporting.write_several(folders, folders[0].parent / "page.html").read_text()


def test_runs_of_one_protocol_share_a_table_and_pictures(run):
    """The point of the page."""
    text = _page(run("one"), run("two", seed=1))
    assert "All measured by: context 256." in text
    assert "measured alike" not in text
    assert text.count("Perplexity against sparsity</h2>") == 1
    assert '<th scope="row">one</th>' in text
    assert text.count("<td>61.00</td>") == 2
    # Each picture names both.
    for svg in text.split("<svg role")[1:]:
        assert ">one</text>" in svg
        assert ">two</text>" in svg


def test_runs_of_other_protocols_are_kept_apart_and_that_is_said(run):
    """In one picture, a shorter context would look like a better model."""
    text = _page(run("one"), run("two", protocol="context 128"), run("three"))
    assert "only figures of one protocol compare" in text
    assert "<li>A: context 256</li>" in text
    assert "<li>B: context 128</li>" in text
    pictures = text.split("<svg role")[1:]
    names = ("one", "two", "three")
    named = [{name for name in names if f">{name}</text>" in s} for s in pictures]
    assert named == [{"one", "three"}] * 2 + [{"two"}] * 2


def test_only_the_keys_that_differ_are_shown(run):
    """Of a hundred keys two runs differ in three, and those are the experiment."""
    text = _page(run("one", steps=5, model="m"), run("two", steps=7, model="m"))
    section = text.split("What their configs differ in</h2>")[1].split("</section>")[0]
    assert '<th scope="row">steps</th><td>5</td><td>7</td>' in section
    for key in ("out", "seed", "model"):
        assert f">{key}<" not in section


def test_an_unfinished_run_is_marked(run):
    """Its last figure is not its final one."""
    text = _page(run("one"), run("two", ends=False))
    assert "two: Not finished: 2 rounds done" in text
    assert "one: Not finished" not in text


def test_a_run_that_only_trains_stands_beside_one_that_prunes(run):
    """A dense baseline is what pruned runs are compared with."""
    text = _page(run("dense", rounds=()), run("pruned"))
    row = text.split('<th scope="row">dense</th>')[1].split("</tr>")[0]
    assert "<td>61.50</td>" in row
    assert row.count("<td>-</td>") == 5  # what only pruning has


def test_names_are_as_long_as_it_takes(run):
    """Folders are often called alike."""
    text = _page(run("a/run"), run("b/run"))
    assert "<h1>a · b</h1>" in text


def test_what_is_no_single_run_is_refused_and_nothing_is_written(run, tmp_path, capsys):
    """A comparison has a page of its own; a run beside itself says nothing."""
    one, out = run("one"), tmp_path / "page.html"
    several = run("several")
    (several / "compare.json").write_text("{}")
    for folders, why in (
        ([one, several], "holds several runs and has a page of its own"),
        ([one, one], "given twice"),
        ([one, tmp_path / "nowhere"], "nowhere: no run folder"),
    ):
        with pytest.raises(errors.UserError, match=why):
            reporting.write_several(folders, out)
    assert cli.main(["report", str(one), str(one), "--out", str(out)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_the_command_writes_where_it_is_told(run, tmp_path, capsys, monkeypatch):
    """And without being told, report.html beside the user."""
    folders = [str(run("one")), str(run("two"))]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *folders]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert "2 runs side by side" in (tmp_path / "report.html").read_text()
