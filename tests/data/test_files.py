"""Text, JSON-lines and CSV files become documents, and bad ones are told apart."""

import csv
import json

import pytest

from gptjax import config, errors
from gptjax.data import files, sources


def _documents(path, **source):
    opened = sources.open_corpus(config.Source(path=str(path), **source))
    # A long text comes in parts, to be read before the next document.
    return [each._replace(text="".join(each.text)) for each in opened.read()]


def _texts(path, **source):
    return [document.text for document in _documents(path, **source)]


def _fails(path, message, **source):
    with pytest.raises(errors.UserError) as caught:
        _documents(path, **source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_text_file_is_one_document_taken_as_it_is(tmp_path):
    """Text mode would turn \\r\\n into \\n and change the ids."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\r\ntwo \xc3\xa9\n")
    assert _texts(path) == ["one\r\n\r\ntwo é\n"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_long_text_is_read_in_parts(tmp_path, monkeypatch, size):
    """A part may end inside a character; a bad one is named by its own place."""
    monkeypatch.setattr(files, "_PART_BYTES", size)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé😀\ufeffx\r\nü".encode())
    assert _texts(path) == ["é😀\ufeffx\r\nü"]
    path.write_bytes("é😀".encode() + b"\xf0\x9f")
    _fails(path, "not UTF-8: byte 6 is 0xf0")
    path.write_bytes("\ufeffé".encode() + b"\xff" + "😀".encode())
    _fails(path, "not UTF-8: byte 5 is 0xff")


def test_a_byte_order_mark_is_no_text(tmp_path):
    """Windows programs write one; as a token it would open every document."""
    for name, body in [
        ("a.txt", "x"),
        ("a.csv", "text\nx\n"),
        ("a.jsonl", '{"text":"x"}'),
    ]:
        (tmp_path / name).write_text(body, encoding="utf-8-sig")
        assert _texts(tmp_path / name) == ["x"]


def test_a_folder_gives_its_files_sorted_and_not_the_hidden_ones(tmp_path):
    """rglob's order is the file system's; ._x.txt files are macOS's, not texts."""
    for name in ["b.txt", "a/z.txt", "c.TXT", "a/._y.txt", ".git/d.txt", "e.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _texts(tmp_path) == ["a/z.txt", "b.txt", "c.TXT"]


def test_jsonl_lines_are_documents(tmp_path):
    """Blank lines end many files; str.splitlines would cut at U+2028 inside a text."""
    values = ["one", "two\nlines", "a\u2028b", "", "é \U0001f600"]
    lines = [json.dumps({"body": v, "n": 1}, ensure_ascii=False) for v in values]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    assert _texts(tmp_path / "a.jsonl", column="body") == values


def test_csv_rows_are_documents(tmp_path):
    """Quoted fields hold commas, quotes and newlines, and outgrow csv's limit."""
    values = ["plain", 'a "quoted", text', "two\nlines", "x" * 200_000, ""]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "text"], *([0, v] for v in values)])
    assert _texts(tmp_path / "a.csv") == values


def test_places_and_progress_point_into_the_file(tmp_path):
    """A wrong line number sends the user to a line that is fine."""
    path = tmp_path / "a.csv"
    path.write_text('text\none\n"two\nlines"\nthree\n')
    places = [document.place for document in _documents(path)]
    assert places == [f"{path}, line {n}" for n in (2, 4, 5)]
    opened = sources.open_corpus(config.Source(path=str(path)))
    assert _documents(path)[-1].done == opened.total == path.stat().st_size


def test_progress_goes_on_from_file_to_file(tmp_path):
    """Each file counts its own bytes; the bar shows the corpus."""
    (tmp_path / "a.txt").write_text("123")
    (tmp_path / "b.txt").write_text("12345")
    assert [document.done for document in _documents(tmp_path)] == [3, 8]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b"caf\xe9 au lait", "not UTF-8: byte 3 is 0xe9"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "not UTF-8: byte 24 is 0xff"),
        ("a.csv", b"text\nfine\nb\xe9\n", "not UTF-8: byte 11 is 0xe9"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text: 1}\n',
            "line 2, column 2: not JSON: Unterminated",
        ),
        ("a.jsonl", b'["x"]\n', "line 1: holds list; a line is an object"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"texts": "x", "id": 1}\n',
            "line 2: no column 'text'; did you mean 'texts'? present: texts, id",
        ),
        ("a.jsonl", b'{"text": 7}\n', "line 1: column 'text' holds no text but int"),
        (
            "a.jsonl",
            b'{"text": null}\n',
            "line 1: column 'text' holds no text but null",
        ),
        (
            "a.csv",
            b"label,body\n1,x\n",
            "line 1: no column 'text'; present: label, body",
        ),
        ("a.csv", b"n,text\n1,x\n2\n", "line 3: 1 columns where the header has 2"),
        ("a.csv", b'text\n"never closed\n', "line 2: not CSV: unexpected end of data"),
        ("a.parquet", b"x", "unknown format"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, message):
    """Every line of this table once came from somebody's data."""
    path = tmp_path / name
    path.write_bytes(content)
    _fails(path, message)


def test_bad_paths_are_named(tmp_path):
    """A folder or path is as easily mistaken as a file's content."""
    _fails(tmp_path / "no.txt", "there is no such file or folder")
    _fails(tmp_path, "unknown format")
    _fails(tmp_path, "the folder holds no .csv file", format="csv")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.csv").write_text("text\nx\n")
    _fails(tmp_path, "text and csv files; say which", column="text")
    _fails(tmp_path / "a.txt", "split is for", split="train")
    _fails(tmp_path / "a.txt", "data_dir is for", data_dir="x", format="text")
    assert _texts(tmp_path, format="csv") == ["x"]


def test_a_format_goes_before_the_name(tmp_path):
    """Dumps are called .json, .log or nothing at all."""
    path = tmp_path / "dump"
    path.write_text('{"text": "x"}\n')
    assert _texts(path, format="jsonl") == ["x"]
