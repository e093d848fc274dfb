"""Ids in files of array records: any window, from the files that hold it alone."""

import pathlib

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st

from gptjax import errors
from gptjax.data import shards, worker

SIZES = (10, 1, 7, 16, 3, 20)
EXPECTED = np.arange(1000, 1000 + sum(SIZES))


class _Numbers:
    """A tokenizer of words that are ids."""

    def encode_batch_fast(self, texts, add_special_tokens):
        assert not add_special_tokens
        return [
            tokenizers.Tokenizer(
                tokenizers.models.WordLevel({w: int(w) for w in text.split()}, "0")
            ).encode(text.split(), is_pretokenized=True)
            for text in texts
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of `EXPECTED` in blocks of 4, as the worker writes them."""
    folder = tmp_path_factory.mktemp("shards")
    begin = 0
    for number, size in enumerate(SIZES):
        words = [str(i) for i in EXPECTED[begin : begin + size]]
        texts = [" ".join(words[:5]), " ".join(words[5:])]
        job = worker.Job(
            path=str(folder / str(number)),
            groups=[texts],
            ends=[False, False],
            eos_id=0,
            dtype="uint16",
            block_tokens=4,
        )
        written = worker.write(_Numbers(), job)
        assert written.counts.sum() == size
        begin += size
    return folder


def _ids(folder, asked=None):
    def local(shard):
        if asked is not None:
            asked.append(shard.name)
        return folder / shard.name

    files = [shards.Shard(str(n), size, 0, 0) for n, size in enumerate(SIZES)]
    return shards.Ids(files, dtype="uint16", block_tokens=4, local=local)


@hypothesis.settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    begin=st.integers(-70, 70),
    end=st.integers(-70, 70),
    step=st.sampled_from([1, 1, 3, -2]),
    starts=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    length=st.integers(1, 17),
    most=st.integers(1, 3),
)
def test_ids_are_indexed_as_an_array_is(
    monkeypatch, folder, begin, end, step, starts, length, most
):
    """A window crosses blocks and files, some of which are shorter than it."""
    monkeypatch.setattr(shards, "_OPEN_FILES", most)
    monkeypatch.setattr(shards, "_READ_IDS", 5)
    ids = _ids(folder)
    found = ids[begin:end:step]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, EXPECTED[begin:end:step])
    places = np.array(starts)[:, None] + np.arange(length)
    np.testing.assert_array_equal(ids[places], EXPECTED[places])
    np.testing.assert_array_equal(ids[places[:, ::-1]], EXPECTED[places[:, ::-1]])
    np.testing.assert_array_equal(np.asarray(ids, np.int32), EXPECTED)


def test_places_outside_are_refused_and_negative_ones_count_from_the_end(folder):
    """NumPy's rules: an id of another place would train on, unseen."""
    ids = _ids(folder)
    assert ids[-1] == EXPECTED[-1]
    for place in (len(EXPECTED), -len(EXPECTED) - 1):
        with pytest.raises(IndexError):
            ids[place]


def test_only_the_files_that_hold_a_window_are_asked_for(folder):
    """Of a large corpus in a store, a run should not wait for all of it."""
    asked = []
    ids = _ids(folder, asked)
    ids[12:20]
    assert asked == ["2", "3"]
    ids[13:19]
    assert asked == ["2", "3"]  # they are still open


def test_damaged_ids_are_told_and_never_given(folder, tmp_path):
    """A bad disk flips a bit; training would go on with it."""
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "3":
            # An id, wherever the format puts it.
            at = content.index(EXPECTED[18:22].astype("<u2").tobytes())
            content[at] ^= 1
        (tmp_path / file.name).write_bytes(content)
    ids = _ids(tmp_path)
    np.testing.assert_array_equal(ids[:18], EXPECTED[:18])
    with pytest.raises(errors.UserError) as caught:
        ids[18:22]
    assert str(caught.value).startswith(f"{pathlib.Path(tmp_path, '3')}: damaged")
    assert "\n" not in str(caught.value)
