"""Packed examples: each once an epoch, none cut, none seen by another."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gptjax import data, errors


def examples(lengths):
    """Examples whose ids count up from 1, half of each learnt."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    place = np.arange(ends[-1])
    example = np.searchsorted(ends, place, side="right")
    is_learnt = place - starts[example] >= np.asarray(lengths)[example] // 2
    return data.Instructions(
        (place + 1).astype(np.int32), is_learnt, np.stack([starts, ends], axis=1)
    )


def batches(instructions, **changes):
    settings = {
        "sequence_tokens": 16,
        "batch_sequences": 4,
        "accumulation_steps": 1,
        "seed": 0,
    }
    return data.InstructionBatches(instructions, **{**settings, **changes})


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


LENGTHS = st.lists(st.integers(1, 16), min_size=1, max_size=60)


@hypothesis.given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_no_sequence_is_overfull_and_their_number_does_not_depend_on_order(
    lengths, seed
):
    """Epochs of unequal length would make a place in the stream depend on its past."""
    lengths = np.array(lengths)
    packed = data.fit_in(lengths, 16)
    assert sorted(n for row in packed for n in row) == list(range(len(lengths)))
    assert all(lengths[row].sum() <= 16 for row in packed)
    shuffled = np.random.default_rng(seed).permutation(lengths)
    assert len(data.fit_in(shuffled, 16)) == len(packed)
    # Two sequences that are at most half full would have been one.
    assert sum(lengths[row].sum() <= 8 for row in packed) <= 1


def test_the_fullest_sequence_that_has_room_is_taken():
    """By hand: 9 | 8 | 7 joins 9 exactly, 5 joins 8, 3 joins 8 and 5."""
    packed = data.fit_in(np.array([3, 9, 5, 8, 7]), 16)
    assert packed == [[1, 4], [3, 2, 0]]


def test_a_sequence_is_laid_out_in_segments():
    """An example's first token has no label: another's last would predict it."""
    found = data.lay_out(examples([3, 1, 4]), [[2, 0], [1], []], sequence_tokens=8)
    x = data.IGNORED
    assert found["tokens"].tolist() == [
        [5, 6, 7, 8, 1, 2, 3, 0], [4, 0, 0, 0, 0, 0, 0, 0], [0] * 8
    ]  # fmt: skip
    assert found["labels"].tolist() == [
        [x, x, 7, 8, x, 2, 3, x], [x] * 8, [x] * 8
    ]  # fmt: skip
    assert found["segments"].tolist() == [
        [0, 0, 0, 0, 1, 1, 1, -1], [0, *[-1] * 7], [-1] * 8
    ]  # fmt: skip
    assert {array.dtype for array in found.values()} == {np.dtype(np.int32)}


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_every_epoch_has_every_example_once_and_whole(lengths, size, seed):
    """Batches go on across the end of an epoch."""
    given = examples(lengths)
    stream = batches(given, batch_sequences=size, seed=seed)
    rows = stream.epoch_sequences
    taken = [next(stream) for _ in range(-(-3 * rows // size))]
    joined = {
        name: np.concatenate([batch[name][0] for batch in taken]) for name in taken[0]
    }
    for epoch in range(3):
        part = {n: x[epoch * rows : (epoch + 1) * rows] for n, x in joined.items()}
        seen = []
        for tokens, segments in zip(part["tokens"], part["segments"], strict=True):
            for segment in np.unique(segments):
                seen.append(tuple(tokens[segments == segment].tolist()))
        whole = [tuple(given.ids(n).tolist()) for n in range(len(given))]
        padding = [each for each in seen if each not in whole]
        assert sorted(each for each in seen if each in whole) == sorted(whole)
        assert all(not any(each) for each in padding)


def test_epochs_differ_and_seeds_do():
    given = examples([5, 9, 3, 16, 2, 7, 7, 7, 4, 4, 11, 6] * 3)
    first, second = batches(given), batches(given, seed=1)
    epoch = first.epoch_sequences // 4 * 4
    one = [next(first)["tokens"] for _ in range(epoch // 4)]
    assert not np.array_equal(one[0], next(second)["tokens"])
    assert not np.array_equal(one[0], next(first)["tokens"])


def test_a_stream_goes_on_where_its_state_was_taken():
    """Across an epoch's end, and as JSON."""
    given = examples([5, 9, 3, 16, 2, 7])
    stream = batches(given)
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    wanted = [next(stream) for _ in range(4)]
    resumed = batches(given)
    resumed.set_state(state)
    for batch in wanted:
        same(next(resumed), batch)
    with pytest.raises(errors.UserError, match="other data: seed was 0, now it is 1"):
        batches(given, seed=1).set_state(state)
    with pytest.raises(errors.UserError, match="other data: checksum"):
        batches(examples([5, 9, 3, 16, 7, 2])).set_state(state)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_shares_of_processes_join_to_the_batch_of_one(parts):
    given = examples([5, 9, 3, 16, 2, 7, 12, 4])
    alone = batches(given, accumulation_steps=parts)
    shares = [
        batches(given, accumulation_steps=parts, process_index=n, process_count=2)
        for n in range(2)
    ]
    for _ in range(5):
        wanted, got = next(alone), [next(share) for share in shares]
        assert wanted["tokens"].shape == (parts, 4 // parts, 16)
        joined = {n: np.concatenate([x[n] for x in got], axis=1) for n in wanted}
        same(joined, wanted)
    with pytest.raises(errors.UserError, match="4 does not divide over 1 accumulation"):
        batches(given, process_count=3)
