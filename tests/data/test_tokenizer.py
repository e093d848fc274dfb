"""Tokenizers of every folder load, and those that do not fit a model are refused."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import transformers

from gptjax import data, errors

TEXT = "It is a truth universally acknowledged,\n\nthat 1813's  café <|endoftext|> x"


def _model(source):
    return json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]


def _copy(source, folder, names):
    """Some files of a folder; the two that only old ones have are made."""
    folder.mkdir()
    for name in names:
        if name == "vocab.json":
            vocab = json.dumps(_model(source)["vocab"])
            (folder / name).write_text(vocab, encoding="utf-8")
        elif name == "merges.txt":
            merges = [" ".join(pair) for pair in _model(source)["merges"]]
            lines = ["#version: 0.2", *merges, ""]
            (folder / name).write_text("\n".join(lines), encoding="utf-8")
        else:
            shutil.copy(source / name, folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["tokenizer.json"],
        ["tokenizer.json", "tokenizer_config.json", "config.json"],
        ["vocab.json", "merges.txt"],
        ["vocab.json", "merges.txt", "config.json"],
    ],
)
def test_every_kind_of_folder_gives_the_same_ids(tokenizer_folder, tmp_path, names):
    """transformers 5 makes an empty tokenizer of old folders, without a word."""
    expected = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    loaded = data.load_tokenizer(_copy(tokenizer_folder, tmp_path / "t", names))
    assert len(loaded) == 2048
    assert loaded(TEXT).input_ids == expected(TEXT).input_ids


def test_folders_without_a_tokenizer_are_refused(tokenizer_folder, tmp_path):
    """From config.json alone AutoTokenizer makes a tokenizer of one token."""
    empty = _copy(tokenizer_folder, tmp_path / "a", ["config.json"])
    with pytest.raises(errors.UserError, match="holds no tokenizer: neither"):
        data.load_tokenizer(empty)
    broken = _copy(tokenizer_folder, tmp_path / "b", [])
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(errors.UserError, match="no tokenizer loads: Expecting"):
        data.load_tokenizer(broken)
    with pytest.raises(errors.UserError, match="there is no such tokenizer folder"):
        data.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "c").mkdir()
    with pytest.raises(errors.UserError, match="no tokenizer"):
        data.load_tokenizer(tmp_path / "c")


def test_a_tokenizer_must_fit_the_vocabulary(tokenizer_folder, tmp_path):
    """An embedding clamps an id beyond its end, and trains on nonsense."""
    loaded = data.load_tokenizer(tokenizer_folder)
    facts = data.Tokenizer.of(loaded).facts(tmp_path)
    data.check_tokenizer(facts, 2048, "mine")
    data.check_tokenizer(facts, 2176, "mine")
    vocab = _model(tokenizer_folder)["vocab"]
    (token,) = [name for name, at in vocab.items() if at == 2047]
    with pytest.raises(errors.UserError) as caught:
        data.check_tokenizer(facts, 2047, "mine")
    assert "mine: the tokenizer does not fit the model" in str(caught.value)
    assert f"token {token!r} has id 2047" in str(caught.value)
    loaded.add_tokens(["<pad>"])
    with pytest.raises(errors.UserError, match="'<pad>' has id 2048"):
        data.check_tokenizer(data.Tokenizer.of(loaded).facts(tmp_path), 2048, "mine")


def test_facts_are_kept_for_as_long_as_the_files_stay(tokenizer_folder, tmp_path):
    folder = _copy(tokenizer_folder, tmp_path / "t", os.listdir(tokenizer_folder))

    def facts(cache="cache"):
        tokenizer = data.Tokenizer(folder)
        return tokenizer.facts(tmp_path / cache), "loaded" in tokenizer.__dict__

    first, is_loaded = facts()
    assert is_loaded
    assert first == data.Tokenizer.of(data.load_tokenizer(folder)).facts(tmp_path)
    assert facts() == (first, False)
    (kept,) = (tmp_path / "cache" / "tokenizers").iterdir()
    kept.write_text("{")
    assert facts() == (first, True)
    path = folder / "tokenizer_config.json"
    own = json.loads(path.read_text())
    path.write_text(json.dumps({**own, "eos_token": "a"}))
    second, is_loaded = facts()
    assert is_loaded
    assert second.eos_id == _model(tokenizer_folder)["vocab"]["a"] != first.eos_id


def test_texts_that_are_in_the_cache_need_no_transformers(
    tokenizer_folder, texts, tmp_path
):
    """Its import takes seconds, and torch's with it, before every run."""
    code = f"""
        import sys
        from gptjax import config, data
        tokens = data.tokenize(
            config.Source(path={str(texts / "austen.valid.txt")!r}),
            data.Tokenizer({str(tokenizer_folder)!r}),
            append_eos=True, workers=1, cache_dir={str(tmp_path)!r},
            vocab_size=2048, progress=False,
        )
        print(len(tokens), "transformers" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first.split()[1:] == ["True"]
    assert second.split() == [first.split()[0], "False"]
