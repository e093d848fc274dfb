"""Texts and tokens in object stores, which fsspec's store in memory stands in for."""

import json
import pathlib
import sys

import datasets
import fsspec
import numpy as np
import pytest

from gptjax import config, data, errors
from gptjax.data import cache, cutting, sources, storage, tokenization


@pytest.fixture
def store(monkeypatch, tmp_path):
    """An empty store in memory, and a home folder for what is fetched from it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.ls("/") else None
    return system


@pytest.fixture
def tokenize_there(tokenizer, monkeypatch):
    """Tokenizes into the store, in shards of some thousand characters."""
    monkeypatch.setattr(tokenization, "_SHARD_CHARACTERS", (5000, 5000))
    monkeypatch.setattr(tokenization, "_GROUP_CHARACTERS", 2000)
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 1000)
    monkeypatch.setattr(cache, "BLOCK_TOKENS", 128)

    def call(path, cache_dir="memory://bucket/tokens"):
        return data.tokenize(
            config.Source(path=str(path)),
            data.Tokenizer.of(tokenizer),
            append_eos=False,
            workers=1,
            cache_dir=cache_dir,
            vocab_size=2048,
            progress=False,
        )

    return call


def _texts(path, **source):
    opened = sources.open_corpus(config.Source(path=str(path), **source))
    return ["".join(document.text) for document in opened.read()]


def _forget(tmp_path):
    """Removes what this host has fetched."""
    for file in sorted((tmp_path / "home").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()


def test_texts_of_every_format_come_from_a_store(store, tmp_path):
    """The same documents, under the same rules, as from a folder."""
    local = tmp_path / "texts"
    (local / "deep").mkdir(parents=True)
    (local / "a.txt").write_text("\ufeffone\r\ntwo é")
    (local / "deep" / "b.txt").write_text("three")
    (local / ".hidden.txt").write_text("no")
    (local / "c.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    (local / "d.csv").write_text('text\n"p\nq"\n')
    datasets.Dataset.from_dict({"text": ["r", "s"]}).save_to_disk(local / "hf")
    store.put(str(local), "/bucket/", recursive=True)
    there = "memory://bucket/texts"
    assert _texts(there, format="text") == ["one\r\ntwo é", "three"]
    for name in ("a.txt", "c.jsonl", "d.csv", "hf"):
        assert _texts(f"{there}/{name}") == _texts(local / name)
        assert _texts((local / name).as_uri()) == _texts(local / name)


def test_tokens_kept_in_a_store_are_those_of_a_folder(
    store, tmp_path, texts, tokenize_there
):
    """Another host, which has fetched nothing, must train on the same batches."""
    path = texts / "austen.valid.txt"
    here = tokenize_there(path, cache_dir=str(tmp_path / "cache"))
    made = tokenize_there(path)
    _forget(tmp_path)
    fetched = tokenize_there(path)
    for there in (made, fetched):
        np.testing.assert_array_equal(there.ids[:], here.ids[:])
        np.testing.assert_array_equal(there.document_starts, here.document_starts)
        assert (there.checksum, there.bytes) == (here.checksum, here.bytes)


def test_only_what_a_window_needs_is_fetched_and_once(
    store, tmp_path, texts, tokenize_there, monkeypatch
):
    """A run begins before all of a large corpus has come."""
    tokenize_there(texts / "austen.valid.txt")
    _forget(tmp_path)
    fetched = []
    get_file = type(store).get_file

    def noted(self, path, to, **options):
        fetched.append(pathlib.Path(path).name)
        return get_file(self, path, to, **options)

    monkeypatch.setattr(type(store), "get_file", noted)
    tokens = tokenize_there(texts / "austen.valid.txt")
    assert fetched == ["document_starts.bin"]
    tokens.ids[2000:2010]
    assert fetched == ["document_starts.bin", "tokens-00001.array_record"]
    again = tokenize_there(texts / "austen.valid.txt")
    again.ids[2000:2010]
    assert len(fetched) == 2


def test_an_index_is_there_only_when_all_shards_are(
    store, texts, tokenize_there, monkeypatch
):
    """A host that dies while it writes must not leave half a corpus to the others."""
    put_file = type(store).put_file
    written = []

    def failing(self, file, path, **options):
        if len(written) == 3:
            raise ConnectionError("the store\nis gone")
        written.append(pathlib.Path(path).name)
        return put_file(self, file, path, **options)

    monkeypatch.setattr(type(store), "put_file", failing)
    with pytest.raises(errors.UserError, match=r"memory://bucket/.*the store is gone"):
        tokenize_there(texts / "austen.valid.txt")
    assert len(written) == 3
    assert "index.json" not in written
    monkeypatch.setattr(type(store), "put_file", put_file)
    assert len(tokenize_there(texts / "austen.valid.txt")) == 75_445


@pytest.mark.parametrize("file", ["index.json", "document_starts.bin", "tokens-00001"])
def test_damage_in_a_store_is_mended_or_told(
    store, tmp_path, texts, tokenize_there, file
):
    """What a store gives is checked when it is fetched, not before."""
    path = texts / "austen.valid.txt"
    expected = tokenize_there(path).ids[:]
    _forget(tmp_path)
    (found,) = [name for name in store.find("/bucket") if file in name]
    store.pipe_file(found, store.cat_file(found)[:-5])
    if file == "index.json":
        np.testing.assert_array_equal(tokenize_there(path).ids[:], expected)
        return
    with pytest.raises(errors.UserError, match=f"{file}.*: damaged; remove its folder"):
        tokenize_there(path).ids[:]


def test_a_changed_object_is_tokenized_again(store, tokenize_there):
    """A store's object has no time of change that all stores tell alike."""
    store.pipe_file("/bucket/a.txt", b"one two three")
    before = tokenize_there("memory://bucket/a.txt").ids[:].tolist()
    store.pipe_file("/bucket/a.txt", b"one two there")
    assert tokenize_there("memory://bucket/a.txt").ids[:].tolist() != before


@pytest.mark.parametrize(
    ("url", "library", "message"),
    [
        ("gs://bucket/a.txt", "gcsfs", r'gs:// needs: pip install "gptjax\[gcs\]"'),
        ("s3://bucket/a.txt", "s3fs", r'needs: pip install "gptjax\[s3\]"'),
        ("abc://bucket/a.txt", "abc", "Protocol not known: abc"),
    ],
)
def test_a_missing_library_is_told_in_one_line(
    monkeypatch, tokenize_there, tmp_path, url, library, message
):
    """For texts and for the cache, before any work is done."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(errors.UserError, match=message) as caught:
        tokenize_there(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)
    (tmp_path / "a.txt").write_text("one two")
    with pytest.raises(errors.UserError, match=message):
        tokenize_there(tmp_path / "a.txt", cache_dir=url)


def test_what_a_store_lacks_or_refuses_is_told(store, monkeypatch):
    """Every store's library has exceptions of its own."""
    with pytest.raises(errors.UserError, match=r"memory://b/a.txt: there is no such"):
        _texts("memory://b/a.txt")
    store.pipe_file("/b/a.jsonl", json.dumps({"text": "x"}).encode())
    with pytest.raises(errors.UserError, match="TFDS data sets are read from local"):
        _texts("memory://b/a.jsonl", format="tfds")

    def refuse(*arguments, **options):
        raise RuntimeError("403\nForbidden")

    monkeypatch.setattr(type(store), "_open", refuse)
    with pytest.raises(errors.UserError, match=r"^memory://b/a.jsonl: 403 Forbidden$"):
        _texts("memory://b/a.jsonl")
    with pytest.raises(errors.UserError, match="not there"):
        storage.path("memory://b/none").read_text()
