"""Batches of several streams in turns."""

import itertools

import numpy as np
import pytest

from gptjax import data, errors


def _tokens(count):
    return data.Tokens(
        np.arange(count, dtype=np.int32), np.zeros(1, np.int64), bytes=count
    )


def _mixture(chances, *, seed=0, process_count=1, process_index=0):
    streams = {
        name: data.Batches(
            _tokens(400),
            sequence_tokens=4,
            batch_sequences=4,
            accumulation_steps=1,
            seed=place,
            respect_documents=False,
            process_index=process_index,
            process_count=process_count,
        )
        for place, name in enumerate(chances)
    }
    return data.Mixture(streams, chances, seed=seed)


def _names(mixture, count):
    return [next(iter(batch)) for batch in itertools.islice(mixture, count)]


def test_streams_come_by_their_chances():
    """1 to 3 of 1000 draws: 250 in the mean, with a deviation of 14."""
    names = _names(_mixture({"few": 0.5, "many": 1.5}), 1000)
    assert abs(names.count("few") - 250) < 4 * 14
    assert names != _names(_mixture({"few": 0.5, "many": 1.5}, seed=1), 1000)


def test_each_stream_goes_on_where_it_was():
    """The batches of a stream are its own, whoever comes between."""
    mixed, alone = _mixture({"a": 1, "b": 1}), _mixture({"a": 1})
    for batch in itertools.islice(mixed, 40):
        if "a" in batch:
            wanted = next(alone)["a"]["tokens"]
            assert np.array_equal(batch["a"]["tokens"], wanted)


def test_a_mixture_goes_on_from_its_state():
    """Which stream is due, and where each of them is."""
    first, second = (_mixture({"a": 1, "b": 2}) for _ in range(2))
    _names(first, 7)
    second.set_state(first.get_state())
    for one, other in itertools.islice(zip(first, second, strict=True), 20):
        assert one.keys() == other.keys()
        for name, batch in one.items():
            assert np.array_equal(batch["tokens"], other[name]["tokens"])
    with pytest.raises(errors.UserError, match="cannot resume on other data: chances"):
        _mixture({"a": 2, "b": 1}).set_state(first.get_state())


def test_processes_read_shares_of_the_same_batch():
    """Or they would compute steps of two tasks at once."""
    whole = _mixture({"a": 1, "b": 1})
    shares = [
        _mixture({"a": 1, "b": 1}, process_count=2, process_index=n) for n in range(2)
    ]
    for _ in range(20):
        ((name, batch),) = next(whole).items()
        parts = [next(share)[name]["tokens"] for share in shares]
        assert np.array_equal(np.concatenate(parts, axis=1), batch["tokens"])
