"""The harness's own command and tasks, on models of gptjax."""

import configparser
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import lm_eval
import lm_eval.tasks
import pytest
from lm_eval.api import registry
from lm_eval.models import huggingface

from gptjax import assets, cli, harness
from gptjax.harness import adapter

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "configs" / "lm_eval"

TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "texts": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n\\n", "."], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}

WITHOUT_TORCH = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

own = importlib.machinery.PathFinder
sys.meta_path = [Finder if each is own else each for each in sys.meta_path]
from gptjax import cli
code = cli.main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.fixture
def tasks(tmp_path):
    """A folder of tasks of three kinds on passages that nobody has trained on."""
    words = assets.text("austen.test").read_text(encoding="utf-8").split(" ")
    documents = []
    for at in range(0, 6000, 1000):
        ends = [" ".join(words[at + n : at + n + 8]) for n in (40, 90, 140, 190)]
        context, text = (" ".join(words[at : at + n]) for n in (40, 400))
        documents.append({"context": context, "choices": ends, "text": text})
    documents[0]["context"] = documents[0]["text"]  # beyond the window
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in documents))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n{task}"
        )
    return folder


@pytest.mark.slow
def test_tasks_of_every_kind_come_out_as_with_hf_and_without_torch(tasks, tmp_path):
    """Through the command, in a process that has no torch to fall back on."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["HF_HOME"] = str(tmp_path / "hf")
    arguments = "lm-eval --model gptjax --model_args path=packaged --batch_size auto"
    arguments = [*arguments.split(), "--log_samples", "--tasks", ",".join(TASKS)]
    arguments += ["--include_path", tasks, "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    theirs = lm_eval.simple_evaluate(
        huggingface.HFLM(
            str(assets.checkpoint()), device="cpu", dtype="float32", batch_size=4
        ),
        tasks=[*TASKS],
        task_manager=lm_eval.tasks.TaskManager(
            include_path=str(tasks), include_defaults=False
        ),
        bootstrap_iters=0,
    )
    (results,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(results.read_text())
    assert results["config"]["model_num_parameters"] == 3_111_936
    for name in TASKS:
        (samples,) = (tmp_path / "out").rglob(f"samples_{name}_*.jsonl")
        ours = [json.loads(line) for line in samples.read_text().splitlines()]
        for own, other in zip(ours, theirs["samples"][name], strict=True):
            _same_answers(own["resps"], other["resps"])
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float):
                assert results["results"][name][metric] == pytest.approx(value)
    assert "|choices|" in done.stdout


def _same_answers(own, other):
    """Of one document; logged as JSON, and its numbers as text."""
    for (mine,), (theirs,) in zip(own, other, strict=True):
        if isinstance(theirs, tuple):
            assert float(mine[0]) == pytest.approx(theirs[0], rel=1e-5, abs=1e-4)
            assert mine[1] == str(theirs[1])
        elif isinstance(theirs, str):
            assert mine == theirs
        else:
            assert float(mine) == pytest.approx(theirs, rel=1e-5)


def test_the_examples_ask_for_what_they_say():
    """The true continuation is among the choices, once and where it is said to be."""
    names = ["austen_perplexity", "austen_continuation"]
    manager = lm_eval.tasks.TaskManager(
        include_path=str(EXAMPLES), include_defaults=False
    )
    whole, passages = (manager.load(names)["tasks"][name] for name in names)
    text = assets.text("austen.test").read_text(encoding="utf-8")
    assert [each["text"] for each in whole.test_docs()] == [text]
    words = " ".join(text.split())
    documents = list(passages.test_docs())
    assert len({each["passage"] for each in documents}) == 250
    for each in documents:
        follows = [f"{each['passage']} {choice}" in words for choice in each["choices"]]
        assert follows == [place == each["answer"] for place in range(4)]


def test_the_harness_finds_the_model():
    """By what `run` registers, and by the entry point that later versions read."""
    harness.register()
    harness.register()
    assert registry.get_model("gptjax") is adapter.Adapter
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    declared = settings["options.entry_points"]["lm_eval.models"].strip()
    name, value = declared.split(" = ")
    point = importlib.metadata.EntryPoint(name, value, "lm_eval.models")
    assert (name, point.load()) == ("gptjax", adapter.Adapter)


def test_without_the_harness_the_command_says_what_to_install(monkeypatch, capsys):
    """It is an extra: most who have gptjax have no use for it."""
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    assert cli.main(["lm-eval", "--model", "gptjax"]) == 1
    told = capsys.readouterr().err
    assert 'pip install "gptjax[eval]"' in told
    assert told.count("\n") == 1


def test_what_the_harness_refuses_is_told_in_one_line(tmp_path, capsys):
    """Its own command ends in a traceback."""
    missing = tmp_path / "missing.yaml"
    assert cli.main(["lm-eval", "--config", str(missing), "--model", "gptjax"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"gptjax: lm_eval: Config file not found: {missing}"
