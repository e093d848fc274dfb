"""Bad input to the commands: one line, exit code 1, and every file as it was."""

import json
import shutil

import pytest

from gptjax import assets, cli, config, files

LABELLED = "label,text\nglad,A fine day.\nsad,A poor play.\n"


@pytest.fixture
def run(capfd):
    """A function (*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with some sound files, and some that are not."""
    monkeypatch.chdir(tmp_path)
    play = assets.text("shakespeare.valid").read_text()[:2000]
    made = {
        "texts.csv": LABELLED,
        "play.txt": play,
        "folder/play.txt": play,
        "header.csv": "label,text\n",
        "twice.csv": "label,text,label\na,b,c\nb,c,d\n",
        "old.csv": LABELLED.replace("\n", "\r"),
        "texts.tsv": LABELLED,
        "runs/curve/runs/all/config.yaml": "",
        "runs/curve/config.yaml": "",
        "lora/adapter_config.json": "{}",
    }
    for name, text in made.items():
        files.write_text(tmp_path / name, text)
    shutil.copytree(assets.checkpoint(), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-100]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return tmp_path


def _contents(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


SWAP = ("--operation", "swap=1")
TAGS = ("task.kind=tagging", "data.valid=null", "out=new", "data.train.path=")
CLASSES = ("task.kind=classification", "data.valid=null", "out=new", "data.train.path=")


def _train(given, name):
    return ("train", "yaml", *given[:-1], given[-1] + name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pairs", "play.txt", "--text", "bard=play.txt"), "play.txt: is the source"),
        (("pairs", "folder/a.txt", "--text", "b=folder"), "lies in it (folder)"),
        (("augment", "texts.csv", "texts.csv", *SWAP), "is the source itself"),
        (("augment", "nowhere.csv", "texts.csv", *SWAP), "nowhere.csv: there is no"),
        (("augment", "texts.csv", "play.txt/o.csv", *SWAP), "cannot be written"),
        (("augment", "texts.csv", "o.jsonl", *SWAP), "o.jsonl: CSV is what is written"),
        (("augment", "header.csv", "o.csv", *SWAP), "header.csv: holds no text"),
        (
            ("augment", "texts.csv", "o.csv", "--operation", "swop=1"),
            "--operation swop: Input should be 'synonyms'",
        ),
        (("average", "packaged", "packaged", "--out", "o", "--weight", "nan",
          "--weight", "1"), "--weight: nan, 1; their sum must be positive"),
        (("average", "packaged", "packaged", "--out", "o", "--weight", "inf",
          "--weight", "1"), "--weight: inf, 1; their sum must be positive"),
        (("average", "packaged", "other", "--out", "o"), "its tokenizer is not that"),
        (("connect", "packaged", "other", "--text", "play.txt"), "its tokenizer is no"),
        (
            ("connect", "packaged", "packaged", "--text", "play.txt", "--out",
             "play.txt/o"),
            "cannot be written: Not a directory",
        ),
        (
            ("robustness", "packaged", "--text", "play.txt", "--out", "play.txt"),
            "play.txt: cannot be written: File exists",
        ),
        (
            ("robustness", "packaged", "--text", "bare.txt", "--noise", "drops",
             "--rate", "1", "--seeds", "1", "--json"),
            "bare.txt with drops at rate 1: 1 tokens are left",
        ),
        (("evaluate", "packaged", "--text", "texts.tsv"), "the name ends in '.tsv'"),
        (("evaluate", "runs/curve", "--text", "play.txt"), "holds several runs"),
        (("evaluate", "lora", "--text", "play.txt"), "an adapter, no model"),
        (
            ("evaluate", "packaged", "--text", "play.txt", "--language", "--task", "a"),
            "--task, --out: are of a classifier's labels",
        ),
        (_train(TAGS, "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (_train(TAGS, "header.csv"), "header.csv: holds no text"),
        ((*_train(TAGS, "texts.csv"), "data.train.format=hf"), "files of one kind"),
        (_train(CLASSES, "header.csv"), "header.csv: holds no text"),
        (_train(CLASSES, "twice.csv"), "line 1: column 'label' stands twice"),
        (_train(CLASSES, "old.csv"), "lines end in CR alone"),
    ],
    ids=lambda given: " ".join(given[:4]) if isinstance(given, tuple) else "",
)  # fmt: skip
def test_it_is_told_in_one_line(run, here, arguments, message):
    """A folder that a refused run began must not stay locked to its config."""
    (here / "yaml").write_text("model: packaged\ndata: {sequence_tokens: 16}\n")
    (here / "bare.txt").write_text("a a a")
    before = _contents(here)
    code, _, err = run(*arguments)
    assert code == 1, err
    assert message in err
    assert err.count("\n") == 1
    assert _contents(here) == before


@pytest.mark.parametrize(
    "overrides",
    [["data.train.column=line"], {"data.train.column": "line"}],
    ids=["arguments", "mapping"],
)
def test_a_plain_path_takes_further_keys(tmp_path, overrides):
    """It is the path of the section that they belong to, and stays it."""
    (tmp_path / "yaml").write_text(
        "{model: packaged, out: o, data: {train: '${packaged:austen.valid}'}}"
    )
    source = config.load(tmp_path / "yaml", overrides).data.train
    assert (source.path, source.column) == (str(assets.text("austen.valid")), "line")
