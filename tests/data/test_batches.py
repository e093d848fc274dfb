"""The stream of batches: every sequence once an epoch, resumable, alike everywhere."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gptjax import data, errors
from gptjax.data import cache, packing, tokenization


def _tokens(count, starts=(0,)):
    """Tokens whose ids are their places, so that a batch shows where it is from."""
    ids = np.arange(count, dtype=np.int32)
    return data.Tokens(ids, np.array(starts, np.int64), bytes=count, name="a.txt")


def _batches(tokens, **changes):
    settings = {
        "sequence_tokens": 4,
        "batch_sequences": 6,
        "accumulation_steps": 1,
        "seed": 0,
        "respect_documents": False,
    }
    return data.Batches(tokens, **{**settings, **changes})


def _take(batches, count):
    return [next(batches) for _ in range(count)]


def _same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_a_batch_has_the_axes_accumulation_sequences_time():
    """The step scans over the first axis and shards the second."""
    batch = next(_batches(_tokens(100), accumulation_steps=3))
    assert {name: array.shape for name, array in batch.items()} == {
        "tokens": (3, 2, 4),
        "labels": (3, 2, 4),
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    count=st.integers(4, 70), size=st.integers(1, 9), seed=st.integers(0, 2**40)
)
def test_every_epoch_has_every_sequence_once(count, size, seed):
    """Batches go on across the end of an epoch: none is cut, none comes twice."""
    sequences = count // 4
    batches = _batches(_tokens(count), batch_sequences=size, seed=seed)
    assert batches.epoch_sequences == sequences
    rows = np.concatenate(
        [batch["tokens"][0] for batch in _take(batches, -(-3 * sequences // size))]
    )
    expected = np.arange(sequences * 4).reshape(sequences, 4)
    for epoch in range(3):
        part = rows[epoch * sequences : (epoch + 1) * sequences]
        np.testing.assert_array_equal(part[part[:, 0].argsort()], expected)


def test_the_order_depends_on_the_seed_and_the_epoch():
    """A shuffle that is the same each epoch shows itself only in worse results."""
    orders = [
        np.concatenate(
            [b["tokens"][0, :, 0] for b in _take(_batches(_tokens(240), seed=seed), 20)]
        )
        for seed in (0, 1)
    ]
    first, second = orders[0][:60], orders[0][60:]
    assert list(first) != sorted(first)
    assert list(first) != list(second)
    assert list(first) != list(orders[1][:60])
    # Epochs of neighbouring seeds are not the same orders one later.
    assert list(second) != list(orders[1][:60])


def test_the_stream_is_the_same_each_time():
    """Resuming and comparing runs both stand on it."""
    for left, right in zip(
        _take(_batches(_tokens(100)), 12),
        _take(_batches(_tokens(100)), 12),
        strict=True,
    ):
        _same(left, right)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    before=st.integers(0, 25), wasted=st.integers(0, 5), size=st.integers(1, 7)
)
def test_a_state_resumes_at_the_very_next_batch(before, wasted, size):
    """Through JSON, into a fresh iterator or one that went on elsewhere."""
    tokens = _tokens(50, starts=(0, 7, 31))
    options = {"batch_sequences": size, "respect_documents": True}
    batches = _batches(tokens, **options)
    _take(batches, before)
    state = json.loads(json.dumps(batches.get_state()))
    expected = _take(batches, 4)
    fresh = _batches(tokens, **options)
    _take(fresh, wasted)
    fresh.set_state(state)
    assert fresh.get_state() == state
    for left, right in zip(expected, _take(fresh, 4), strict=True):
        _same(left, right)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    steps=st.integers(1, 3), processes=st.integers(1, 4), share=st.integers(1, 3)
)
def test_processes_together_get_the_batch_of_one(steps, processes, share):
    """A run on more hosts must be the same run."""
    tokens = _tokens(90, starts=(0, 5, 6, 50))
    options = {
        "batch_sequences": steps * processes * share,
        "accumulation_steps": steps,
        "respect_documents": True,
    }
    whole = _take(_batches(tokens, **options), 6)
    shares = [
        _batches(tokens, **options, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    for batch in whole:
        parts = [next(one) for one in shares]
        _same(
            batch,
            {name: np.concatenate([p[name] for p in parts], axis=1) for name in batch},
        )
    states = [one.get_state() for one in shares]
    assert states == [states[0]] * processes


@hypothesis.settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    lives=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 3, 4, 6])), max_size=4
    ),
    respect=st.booleans(),
)
def test_a_run_goes_on_with_other_processes_and_repeats_nothing(
    from_shards, lives, respect
):
    """Killed at any step, started again on more hosts or fewer, over and over."""
    settings = {
        "sequence_tokens": 32,
        "batch_sequences": 12,
        "seed": 5,
        "respect_documents": respect,
    }
    whole = _take(_batches(from_shards, **settings), 12)
    state, taken = None, 0
    for steps, processes in [*lives, (len(whole), 3)]:
        shares = [
            _batches(
                from_shards, **settings, process_index=index, process_count=processes
            )
            for index in range(processes)
        ]
        if state is not None:
            for share in shares:
                share.set_state(json.loads(state))
        for expected in whole[taken:][:steps]:
            parts = [next(share) for share in shares]
            assert len({part["tokens"].shape for part in parts}) == 1
            joined = {
                name: np.concatenate([part[name] for part in parts], axis=1)
                for name in expected
            }
            _same(joined, expected)
        states = {json.dumps(share.get_state()) for share in shares}
        assert len(states) == 1
        (state,), taken = states, taken + steps


@pytest.fixture
def from_shards(tokenize, texts, monkeypatch, tmp_path):
    """Tokens whose sequences cross blocks and files."""
    monkeypatch.setattr(tokenization, "_SHARD_CHARACTERS", (4000, 4000))
    monkeypatch.setattr(cache, "BLOCK_TOKENS", 50)
    path = tmp_path / "a.jsonl"
    paragraphs = (texts / "austen.valid.txt").read_text("utf-8")[:30_000].split("\n\n")
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs))
    return tokenize(path)


def test_documents_are_kept_apart():
    """Written by hand: documents of 3, 6, 1 and 10 tokens, sequences of 5."""
    tokens = _tokens(20, starts=(0, 3, 9, 10))
    packed = packing.pack(
        tokens, np.arange(4), sequence_tokens=5, respect_documents=True
    )
    np.testing.assert_array_equal(packed["tokens"], np.arange(20).reshape(4, 5))
    np.testing.assert_array_equal(
        packed["segments"],
        [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        packed["labels"],
        [
            [-100, 1, 2, -100, 4],
            [5, 6, 7, 8, -100],
            [-100, 11, 12, 13, 14],
            [15, 16, 17, 18, 19],
        ],
    )


def test_labels_are_a_copy_of_the_tokens():
    """A caller that masks its labels must not change the tokens too."""
    packed = packing.pack(
        _tokens(8), np.arange(2), sequence_tokens=4, respect_documents=False
    )
    np.testing.assert_array_equal(packed["labels"], packed["tokens"])
    assert not np.shares_memory(packed["labels"], packed["tokens"])


def test_ids_from_the_cache_come_through(tokenize, texts):
    """uint16 on disk, int32 in a batch, and the mapping is not copied whole."""
    tokens = tokenize(texts / "austen.valid.txt")
    batch = next(_batches(tokens, sequence_tokens=256, batch_sequences=4))
    rows = np.asarray(tokens.ids[: 294 * 256], np.int32).reshape(294, 256)
    for row in batch["tokens"][0]:
        assert (rows == row).all(axis=1).sum() == 1


def test_bad_sizes_are_told():
    """Numbers that do not fit end the run before it starts."""
    with pytest.raises(errors.UserError) as caught:
        _batches(_tokens(3))
    assert "a.txt: 3 tokens, but one sequence needs 4" in str(caught.value)
    with pytest.raises(errors.UserError, match="6 does not divide over 2 accum"):
        _batches(_tokens(100), accumulation_steps=2, process_count=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sequences": 3}, "batch_sequences was 6, now it is 3"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"sequence_tokens": 5}, "sequence_tokens was 4, now it is 5"),
    ],
)
def test_a_state_of_other_settings_is_refused(changes, message):
    """The same place in another stream would repeat some texts and skip others."""
    state = _batches(_tokens(100)).get_state()
    with pytest.raises(errors.UserError, match=message):
        _batches(_tokens(100), **changes).set_state(state)
    with pytest.raises(errors.UserError, match="tokens was 100, now it is 104"):
        _batches(_tokens(104)).set_state(state)
