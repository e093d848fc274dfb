"""The packaged tokenizer, and a short way to tokenize."""

import pathlib

import pytest

import gptjax
from gptjax import config, data

ASSETS = pathlib.Path(gptjax.__file__).parent / "assets"


@pytest.fixture(scope="session")
def texts():
    """The folder of the packaged texts."""
    return ASSETS / "texts"


@pytest.fixture(scope="session")
def tokenizer_folder():
    return ASSETS / "gpt2-austen"


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    return data.load_tokenizer(tokenizer_folder)


@pytest.fixture
def cache_dir(tmp_path_factory):
    """A cache of the test's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tokenize(tokenizer, cache_dir):
    """`data.tokenize` of a path with everything else by default."""

    def call(path, *, tokenizer=tokenizer, eos=False, workers=1, vocab=2048, **source):
        return data.tokenize(
            config.Source(path=str(path), **source),
            data.Tokenizer.of(tokenizer),
            append_eos=eos,
            workers=workers,
            cache_dir=str(cache_dir),
            vocab_size=vocab,
            progress=False,
        )

    return call
