"""A report's HTML is one file that a browser reads alone, and says what is so."""

import html.parser
import json
import re

import pytest

from gptjax import cli, reporting
from gptjax.reporting import page as page_lib
from gptjax.reporting import web

EVIL = '<script>alert("1")</script>&amp;'
ROUND = {
    "target_sparsity": 0.5,
    "model_sparsity": 0.25,
    "protocol": f"text {EVIL}",
    "bytes_dense": 4_000_000,
    "bytes_packed": 3_000_000,
    "controls": {},
}
ENVIRONMENT = {
    "started": "2026-01-02T03:04:05+00:00",
    "command": ["gptjax", "prune", EVIL],
    "python": "3.11.7",
    "platform": "Linux",
    "processor": "P",
    "cores": 2,
    "device": "cpu",
    "devices": 8,
    "processes": 1,
    "packages": {"gptjax": "0.1.0", "jax": "0.10.2"},
    "git": {"gptjax": {"commit": "abcdef0123456789", "is_dirty": True}},
}


class _Reader(html.parser.HTMLParser):
    """Notes tags with their attributes, and holds opened and closed ones together."""

    VOID = ("meta", "input", "br", "hr", "img", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    def named(self, *tags):
        return [attributes for tag, attributes in self.tags if tag in tags]


def _make(folder):
    """A finished pruning run whose texts would like to be code."""
    for number, sparsity in enumerate([0.0, 0.5, 0.8]):
        path = folder / "rounds" / f"{number:02d}"
        path.mkdir(parents=True)
        layers = {f"blocks/{EVIL}/kernel": [sparsity, sparsity / 2]}
        own = {"round": number, "sparsity": sparsity, "perplexity": 50.0 + number}
        report = {**ROUND, **own, "sparsity_per_layer": layers}
        (path / "report.json").write_text(json.dumps(report))
    result = {"perplexity": 244.0, "protocol": ROUND["protocol"]}
    savings = {"zeros": 4, "prunable": 8, "parameters": 10}
    savings |= {"bytes_dense": 40, "bytes_packed": 25, "backend": "cpu"}
    savings |= {"step_seconds_dense": 1.0, "step_seconds_pruned": 0.99}
    summary = {"model": EVIL, "start": result, "end": result, "savings": savings}
    (folder / "summary.json").write_text(json.dumps(summary))
    names = ["start", "00", "01", "02"]
    samples = {"prompts": [EVIL], "texts": {n: [f"{n} {EVIL}"] for n in names}}
    (folder / "samples.json").write_text(json.dumps(samples))
    lines = [{"phase": "00", "step": s, "loss": 1.0 / s} for s in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "config.yaml").write_text(f"model: '{EVIL}'\n")
    (folder / "environment.json").write_text(json.dumps([ENVIRONMENT]))
    return folder


@pytest.fixture
def folder(tmp_path):
    """The folder of such a run."""
    return _make(tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The HTML of such a run's report."""
    page = reporting.write(_make(tmp_path_factory.mktemp("run")))
    return page.with_suffix(".html").read_text()


def test_no_text_of_a_run_becomes_code(text):
    """A prompt or a model's own words may hold a script."""
    read = _Reader(text)
    assert not read.named("script", "iframe", "object", "embed", "link")
    assert not [a for _, a in read.tags if any(name.startswith("on") for name in a)]
    # The title, a prompt, what was written, the config, the command, the protocol.
    assert "".join(read.texts).count(EVIL) >= 10


def test_nothing_is_fetched(text):
    """A report that is mailed, or opened in years, has only itself."""
    fetched = [
        value
        for _, attributes in _Reader(text).tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
        and not value.startswith(("#", "data:"))
    ]
    assert fetched == []
    styles = re.findall(r"<style.*?</style>", text, re.DOTALL)
    assert not re.search(r"@import|url\((?!#)", "".join(styles))
    assert "default-src 'none'" in text


def test_the_page_is_one_for_all_readers(text):
    """Who hears the page, or prints it, gets what others see."""
    read = _Reader(text)
    tags = [tag for tag, _ in read.tags]
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert tags.count(landmark) == 1, landmark
    assert read.named("html")[0]["lang"] == "en"
    for picture in [a for a in read.named("svg") if a.get("role") == "img"]:
        assert picture["aria-label"]
    assert len([a for a in read.named("svg") if a.get("role")]) == 2
    for heading in read.named("th"):
        assert heading["scope"] in ("col", "row")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_no_two_things_have_one_name(text):
    """Two pictures of matplotlib's share names: of what one shows, the other would."""
    names = [a["id"] for _, a in _Reader(text).tags if "id" in a]
    assert sorted(names) == sorted({*names})
    referred = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert {*referred} <= {*names}


def test_the_page_says_what_the_run_folder_does(text):
    """Whoever gets the page alone has to be able to repeat the run."""
    told = " ".join(" ".join(_Reader(text).texts).split())
    for said in (
        "244.00",
        "52.00",
        "abcdef012345, with changes",
        "2026-01-02 03:04:05 UTC",
        "jax 0.10.2",
        "8 x cpu",
        f"model: '{EVIL}'",
        "no speed-up",
        "round 2, 80.0% sparse",
    ):
        assert said in told, said
    assert "Not finished" not in told


def test_every_round_has_its_map_and_the_last_is_shown(text):
    """Layers are looked at round by round, and without a script."""
    read = _Reader(text)
    chosen = ["checked" in a for a in read.named("input")]
    assert chosen == [False, True]
    cells = re.findall(r'<td style="background:(#\w{6});color:#\w+">(\d+)</td>', text)
    assert [figure for _, figure in cells] == ["50", "25", "80", "40"]
    assert len({color for color, _ in cells}) == 2  # the ends of each round's scale


def test_a_run_that_has_not_ended_says_so(folder):
    """Its last round looks like a result and is none."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["end"], summary["savings"]
    (folder / "summary.json").write_text(json.dumps(summary))
    page = reporting.write(folder)
    for path in (page, page.with_suffix(".html")):
        said = "Not finished: 3 rounds done, last heard of at step 2 of 00."
        assert said in path.read_text()


def test_out_names_the_file(folder, tmp_path, capsys):
    """To be sent, the page is wanted elsewhere."""
    out = tmp_path / "sent" / "page.html"
    assert cli.main(["report", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text() == (folder / "report/report.html").read_text()


def test_parts_that_say_nothing_leave_nothing(tmp_path):
    """An empty heading or table looks as if something had gone wrong."""
    made = page_lib.Page("T", ["", page_lib.Bullets([]), page_lib.Table(["a"], [])])
    text = web.html(made, tmp_path, kicker="K")
    assert not _Reader(text).named("p", "ul", "table", "nav")[2:]
    assert made.markdown() == "# T\n"
