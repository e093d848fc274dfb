"""The ids are the tokenizer's own, made once, and the cache never lies."""

import json
import os
import pathlib
import shutil
import sys
import threading

import numpy as np
import pytest

from gptjax import data, errors
from gptjax.data import cache, cutting, pool, tokenization, worker


def _expected(tokenizer, texts, eos=False):
    """Ids and document starts, each document tokenized alone by HF's own call."""
    ids, starts = [], []
    for text in texts:
        if text:
            starts.append(len(ids))
            ids += tokenizer(text, add_special_tokens=False).input_ids
            ids += [tokenizer.eos_token_id] * eos
    return ids, starts


def _write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _check(tokens, expected):
    ids, starts = expected
    np.testing.assert_array_equal(tokens.ids, ids)
    np.testing.assert_array_equal(tokens.document_starts, starts)


@pytest.fixture
def no_encoding(monkeypatch):
    """Calling this makes every tokenization from then on an error."""

    def forbid():
        def refuse(*arguments, **options):
            raise AssertionError("tokenized again")

        monkeypatch.setattr(pool, "write_here", refuse)
        monkeypatch.setattr(pool, "write_in_processes", refuse)

    return forbid


@pytest.mark.parametrize(
    ("name", "count"), [("austen.valid", 75_445), ("shakespeare.valid", 48_598)]
)
def test_a_text_file_has_the_tokens_of_the_whole_string(
    tokenizer, tokenize, texts, name, count
):
    """The perplexities that were computed in torch stand on these counts."""
    path = texts / f"{name}.txt"
    tokens = tokenize(path)
    assert len(tokens) == count
    assert tokens.ids.dtype == np.uint16
    assert tokens.bytes == path.stat().st_size
    _check(tokens, _expected(tokenizer, [path.read_text(encoding="utf-8")]))


@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_documents_are_tokenized_each_alone(
    tokenizer, tokenize, texts, tmp_path, monkeypatch, eos, workers
):
    """Groups, pieces and processes come back in order, documents in their places."""
    monkeypatch.setattr(tokenization, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(tokenization, "_GROUP_CHARACTERS", 3000)
    monkeypatch.setattr(tokenization, "_SHARD_CHARACTERS", (7000, 7000))
    monkeypatch.setattr(cache, "BLOCK_TOKENS", 100)
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 1000)
    text = (texts / "austen.valid.txt").read_text(encoding="utf-8")[:60_000]
    documents = ["", *text.split("\n\n"), "", text[:20_000], " <|endoftext|> é😀", ""]
    path = _write(tmp_path / "a.jsonl", documents)
    tokens = tokenize(path, eos=eos, workers=workers)
    _check(tokens, _expected(tokenizer, documents, eos))
    assert tokens.bytes == sum(len(document.encode()) for document in documents)


def test_the_files_do_not_depend_on_who_wrote_them(
    tokenize, texts, cache_dir, monkeypatch
):
    """A run resumes on another machine, and hosts write one store side by side."""
    monkeypatch.setattr(tokenization, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(tokenization, "_SHARD_CHARACTERS", (30_000, 30_000))
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 10_000)
    found = []
    for workers in (1, 2, 3):
        tokens = tokenize(texts / "austen.valid.txt", workers=workers, eos=True)
        (folder,) = cache_dir.iterdir()
        content = {file.name: file.read_bytes() for file in folder.iterdir()}
        found.append((tokens.checksum, content))
        del tokens
        shutil.rmtree(folder)
    assert len(found[0][1]) > 8
    assert found == [found[0]] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_of_a_corpus_is_held_than_is_worked_on(tokenizer, tmp_path, workers):
    """The reader is faster than any tokenizer: unchecked, it would hold the corpus."""
    held = most = 0

    def tasks():
        nonlocal held, most
        for number in range(12):
            held += 1
            most = max(most, held)
            path = str(tmp_path / str(number))
            yield worker.Job(path, [["one two"]], [False], 0, "uint16", 16), number

    backend = tokenizer.backend_tokenizer
    numbers = []
    for written, number in pool.write_in_processes(tasks(), backend, workers=workers):
        assert written.counts.tolist() == [2]
        numbers.append(number)
        held -= 1
    assert numbers == list(range(12))
    assert most <= workers + 2


def test_truncation_asked_for_by_a_tokenizers_file_is_not_done(tokenize, tokenizer):
    """Many tokenizer.json files carry the truncation of their last use."""
    cut = data.load_tokenizer(tokenizer.name_or_path)
    cut.backend_tokenizer.enable_truncation(4)
    cut.backend_tokenizer.enable_padding(length=100)
    source = pathlib.Path(__file__)
    _check(
        tokenize(source, tokenizer=cut, format="text"),
        _expected(tokenizer, [source.read_text(encoding="utf-8")]),
    )


def test_a_second_call_reads_the_cache(tokenize, tmp_path, no_encoding):
    """Tokenizing a large corpus at each start is what the cache is there to spare."""
    path = _write(tmp_path / "a.jsonl", ["one two", "three"])
    first = tokenize(path)
    no_encoding()
    second = tokenize(path)
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.document_starts, second.document_starts)
    assert first.bytes == second.bytes


def test_what_changes_the_ids_changes_the_cache(tokenize, tokenizer, tmp_path):
    """A key that misses one of these gives the ids of yesterday's run."""
    path = tmp_path / "a.txt"
    path.write_text("one two three")
    before = tokenize(path)
    path.write_text("one two there")
    os.utime(path, ns=(1, 1))
    assert list(tokenize(path).ids) != list(before.ids)
    assert len(tokenize(path, eos=True)) == len(tokenize(path)) + 1
    other = data.load_tokenizer(tokenizer.name_or_path)
    other.add_tokens(["two there"])
    assert 2048 in tokenize(path, tokenizer=other, vocab=None).ids
    table = tmp_path / "t.csv"
    table.write_text("a,b\none,two\n")
    left, right = tokenize(table, column="a"), tokenize(table, column="b")
    assert list(left.ids) != list(right.ids)


@pytest.mark.parametrize(
    "file", ["tokens-00000.array_record", "document_starts.bin", "index.json"]
)
@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "gone"])
def test_a_damaged_cache_is_made_again(tokenize, cache_dir, tmp_path, file, how):
    """A full disk cuts files short, a crash empties them, a bad disk flips bits."""
    path = _write(tmp_path / "a.jsonl", ["one two", "three four"])
    before = tokenize(path)
    ids, starts = before.ids[:].tolist(), before.document_starts.tolist()
    (folder,) = cache_dir.iterdir()
    content = bytearray((folder / file).read_bytes())
    (folder / file).unlink()
    if how == "flipped":
        content[1] ^= 0xFF
    if how != "gone":
        size = {"cut": len(content) - 3, "emptied": 0}.get(how, len(content))
        (folder / file).write_bytes(content[:size])
    again = tokenize(path)
    assert again.ids[:].tolist() == ids
    assert again.document_starts.tolist() == starts
    assert [entry.name for entry in cache_dir.iterdir()] == [folder.name]


def test_racing_writers_do_no_harm(tokenize, cache_dir, texts):
    """All processes of a host start at once and find the same cache empty."""
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(tokenize(texts / "austen.test.txt"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert {len(tokens) for tokens in found} == {74_792}
    assert len(list(cache_dir.iterdir())) == 1


def test_a_failure_leaves_nothing_in_the_cache(tokenize, cache_dir, tmp_path):
    """Half a corpus, found by the next run, would pass for all of it."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 1}\n')
    with pytest.raises(errors.UserError, match="line 2"):
        tokenize(path)
    assert list(cache_dir.iterdir()) == []


def test_a_worker_that_dies_is_told(tokenize, texts, monkeypatch, cache_dir):
    """The kernel kills it where memory is short; the parent must not wait for ever."""
    monkeypatch.setattr(tokenization, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(errors.UserError, match=r"died [(]exit code 1"):
        tokenize(texts / "austen.valid.txt", workers=2)
    assert list(cache_dir.iterdir()) == []


def test_an_id_beyond_the_vocabulary_is_named_with_its_place(
    tokenize, tokenizer, tmp_path
):
    """Checked whether the ids are new or from the cache, made for another model."""
    large = data.load_tokenizer(tokenizer.name_or_path)
    large.add_tokens(["<far>"])
    path = _write(tmp_path / "a.jsonl", ["fine", "also fine", "a <far> b", "fine"])
    for _ in range(2):
        with pytest.raises(errors.UserError) as caught:
            tokenize(path, tokenizer=large, vocab=2048)
        message = str(caught.value)
        assert message.startswith(f"{path}, line 3: token '<far>' has id 2048")
    assert len(tokenize(path, tokenizer=large, vocab=2049)) > 4


def test_bad_texts_and_settings_are_told(tokenize, tokenizer, tmp_path, cache_dir):
    """Each message is one line that names what to mend."""
    path = _write(tmp_path / "a.jsonl", ["", ""])
    with pytest.raises(errors.UserError, match="jsonl: holds no text"):
        tokenize(path)
    _write(path, ["fine", "\ud800"])
    with pytest.raises(errors.UserError, match=r"line 2: .* lone surrogate \\ud800"):
        tokenize(path)
    _write(path, ["fine"])
    nameless = data.load_tokenizer(tokenizer.name_or_path)
    nameless.eos_token = None
    with pytest.raises(errors.UserError, match="no end-of-text token"):
        tokenize(path, tokenizer=nameless, eos=True)
    cache_dir.rmdir()
    cache_dir.write_text("a file where a folder should be")
    with pytest.raises(errors.UserError, match=r"[(]data.cache_dir[)]"):
        tokenize(path)
