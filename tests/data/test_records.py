"""Lines of instructions: both forms, their styles, and one clear line for a slip."""

import json

import pytest

from gptjax import config, errors
from gptjax.data import records

USER = {"role": "user", "content": "Who wrote Emma?"}
ASSISTANT = {"role": "assistant", "content": "Jane Austen."}


@pytest.fixture
def read(tmp_path):
    """A function (*lines, **source) that reads a file of these objects."""

    def run(*lines, name="a.jsonl", **source):
        path = tmp_path / name
        text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
        path.write_text(text)
        return list(records.read_records(config.Source(path=str(path), **source)))

    return run


def test_both_forms_are_read_with_their_places(read):
    """Other keys are left alone: data sets number their lines."""
    first, second = read(
        {"prompt": "a", "completion": " b", "id": 7, "prompt_id": 8},
        {"messages": [USER, ASSISTANT]},
    )
    assert (first.prompt, first.completion, first.messages) == ("a", " b", ())
    assert (second.messages, second.completion) == ((USER, ASSISTANT), "")
    assert second.place.endswith("a.jsonl, line 2")


def test_a_style_is_a_line_before_the_prompt_and_before_a_chats_first_turn(read):
    """A record's own goes before that of its source; a style alone may be a prompt."""
    lines = (
        {"prompt": "a", "completion": "b"},
        {"prompt": "", "completion": "b", "style": "jane austen"},
        {"messages": [USER, ASSISTANT, USER, ASSISTANT]},
    )
    found = read(*lines, style="shakespeare")
    assert found[0].prompt == "<|style: shakespeare|>\na"
    assert found[1].prompt == "<|style: jane austen|>\n"
    said = [turn["content"] for turn in found[2].messages]
    assert said[0] == "<|style: shakespeare|>\n" + USER["content"]
    assert said[1:] == [ASSISTANT["content"], USER["content"], ASSISTANT["content"]]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("{", "column 2: not JSON"),
        ("[]", "holds list; a line is an object"),
        ({"prompt": "a"}, "no key 'completion'; a line has prompt and completion, or"),
        ({"prompt": "a", "completions": "b"}, "'completions'; did you mean 'comple"),
        ({"message": []}, "key 'message'; did you mean 'messages'"),
        ({"text": "a"}, "no key 'prompt'.*present: text"),
        ({"prompt": "a", "completion": " \n"}, "completion is an empty text"),
        ({"prompt": "", "completion": "b"}, "prompt is an empty text"),
        ({"prompt": None, "completion": "b"}, "prompt holds no text but null"),
        ({"prompt": "a", "completion": 3}, "completion holds no text but int"),
        ({"prompt": "a", "completion": "\ud800"}, r"lone surrogate \\ud800"),
        ({"prompt": "a", "completion": "b", "style": ""}, "style ''"),
        ({"prompt": "a", "completion": "b", "style": "a|>\n"}, "called by words"),
        ({"prompt": "a", "completion": "b", "style": 3}, "style 3"),
        ({"messages": [USER, ASSISTANT], "prompt": "a"}, "both messages and prompt"),
        ({"messages": []}, "a chat is a list of turns"),
        ({"messages": "hello"}, "a chat is a list of turns"),
        ({"messages": ["hello"]}, "turn 1: holds str"),
        ({"messages": [USER, {"role": "assistant"}]}, "turn 2: no key 'content'"),
        ({"messages": [{"content": "a"}]}, "turn 1: no key 'role'; present: content"),
        ({"messages": [USER, {**ASSISTANT, "content": None}]}, "2: content .*but null"),
        ({"messages": [USER, {**ASSISTANT, "content": " "}]}, "2: content is an empty"),
        ({"messages": [{**USER, "role": "bot"}]}, "1: role 'bot'; it may be system, u"),
        ({"messages": [{**USER, "role": []}]}, r"1: role \[\]; it may be"),
        ({"messages": [USER]}, "no turn is the assistant's"),
        ({"messages": [ASSISTANT, USER]}, "turn 1: is the assistant's, who has noth"),
    ],
)
def test_a_slip_is_one_line_with_its_place(read, line, wanted):
    """The line before is right: a message that names the wrong place costs an hour."""
    with pytest.raises(errors.UserError, match=wanted) as told:
        read({"prompt": "a", "completion": "b"}, line)
    assert "a.jsonl, line 2" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("lines", "source", "wanted"),
    [
        ([], {}, "a.jsonl: holds no instruction"),
        (["x"], {"name": "a.txt"}, "a.txt: instructions stand in .jsonl files"),
        (["x"], {"format": "csv"}, "a.jsonl: instructions stand in .jsonl files"),
    ],
)
def test_files_that_hold_none_are_refused(read, lines, source, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        read(*lines, **source)


def test_other_names_and_folders_are_read(read, tmp_path):
    """A folder's files in order; another ending only when told so."""
    line = {"prompt": "a", "completion": "b"}
    assert len(read(line, name="a.json", format="jsonl")) == 1
    read({**line, "prompt": "2"}, name="b.jsonl")
    read({**line, "prompt": "1"}, name="a.jsonl")
    found = records.read_records(config.Source(path=str(tmp_path)))
    assert [record.prompt for record in found] == ["1", "2"]
    with pytest.raises(errors.UserError, match="nowhere: there is no such file"):
        list(records.read_records(config.Source(path="nowhere")))
