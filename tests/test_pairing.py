"""Pairs made of plain texts: passages whole, their words without style before them."""

import json

import pytest

from gptjax import cli, config, errors, pairing
from gptjax.data import records

PLAY = """\
ACT I.

HAMLET. To be, or not to be: that is the question;
Whether 'tis nobler in the mind to suffer. And by opposing end them!

Exeunt.

O, that this too too solid _flesh_ would melt?
"""


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(PLAY)
    return path


@pytest.fixture
def pairs(tmp_path, play, capsys):
    """A function (*options) -> exit code, the objects written, what was told."""

    def run(*options):
        out = tmp_path / "out" / "pairs.jsonl"
        code = cli.main(
            ["pairs", str(out), "--text", f"the bard={play}", *map(str, options)]
        )
        told = "".join(capsys.readouterr())
        lines = out.read_text().splitlines() if code == 0 else []
        return code, [json.loads(line) for line in lines], told

    return run


def test_passages_are_whole_sentences_in_their_own_lines(play):
    """Headings go; a paragraph longer than asked for is cut between sentences."""
    source = config.Source(path=str(play))
    assert list(pairing.passages(source, 12)) == [
        "HAMLET. To be, or not to be: that is the question;",
        "Whether 'tis nobler in the mind to suffer.",
        "And by opposing end them!",
        "O, that this too too solid _flesh_ would melt?",
    ]
    assert len(list(pairing.passages(source, 99))) == 2


def test_bare_words_keep_no_style():
    text = "_O_, that\nTHIS too-solid flesh's king\u2019s!"
    assert pairing.bare(text) == "o that this too solid flesh's king\u2019s"


def test_a_passage_answers_its_own_words(pairs):
    """With nothing dropped or moved, the words are the passage's own."""
    code, found, told = pairs("--plain", 0, "--operation", "swap=0.000001")
    assert code == 0
    assert "2 of the bard" in told
    for record in found:
        asked, answer = record["messages"]
        assert (asked["role"], answer["role"]) == ("user", "assistant")
        assert asked["content"] == pairing.bare(answer["content"])
        assert record["style"] == "the bard"


def test_words_are_lost_of_half_and_some_passages_follow_the_style_alone(pairs, play):
    play.write_text(
        "\n\n".join(f"{n} " + " ".join("abcdefghij") + "." for n in range(200))
    )
    _, found, _ = pairs("--count", 150)
    assert len({json.dumps(record) for record in found}) == 150
    alone = [record for record in found if "prompt" in record]
    assert 5 < len(alone) < 30
    assert {record["prompt"] for record in alone} == {""}
    changed = lost = 0
    for record in found:
        if "messages" in record:
            asked, answer = (turn["content"] for turn in record["messages"])
            words, own = asked.split(), pairing.bare(answer).split()
            assert set(words) <= set(own)
            changed += words != own
            lost += len(own) - len(words)
    assert 40 < changed < 100
    assert 0.1 < lost / (11 * changed) < 0.3
    assert pairs("--count", 150)[1] == found
    assert pairs("--count", 150, "--seed", 1)[1] != found


def test_training_reads_what_is_written(pairs, tmp_path):
    pairs()
    source = config.Source(path=str(tmp_path / "out" / "pairs.jsonl"))
    assert len(list(records.read_records(source))) == 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--text", "x"], "--text: 'x'; write STYLE=FILE"),
        (["--text", "the bard=x"], "each style once"),
        (["--text", "a|b=x"], "--text: style 'a|b'"),
        (["--text", "b=nowhere.txt"], "nowhere.txt: there is no such file"),
        (["--operation", "swop=1"], "--operation"),
        (["--text", "b={short}"], "holds no passage of a few words"),
    ],
)
def test_a_slip_is_one_line_and_nothing_is_written(pairs, tmp_path, options, wanted):
    (tmp_path / "short.txt").write_text("ACT I.\n")
    options = [each.format(short=tmp_path / "short.txt") for each in options]
    code, _, told = pairs(*options)
    assert code == 1
    assert wanted in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told(play, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="cannot be written"):
        pairing.write(
            {"a": config.Source(path=str(play))},
            tmp_path / "file" / "out.jsonl",
            config.Augmentation(operations={"swap": 1.0}),
            words=20,
            count=None,
            plain=0.0,
            seed=0,
        )
