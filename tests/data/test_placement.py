"""Batches arrive on the devices in order, with states, from a thread that ends."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from gptjax import data, errors, sharding
from gptjax.data import placement


class _Counting:
    """Batches that say how many were taken, and fail where told to."""

    def __init__(self, fail_at=None):
        self.taken = 0
        self._fail_at = fail_at

    def __next__(self):
        if self.taken == self._fail_at:
            raise errors.UserError("the disk is gone")
        self.taken += 1
        return {"tokens": np.full((1, 8, 4), self.taken, np.int32)}

    def get_state(self):
        return {"taken": self.taken}


@pytest.fixture
def placed():
    return sharding.batch_sharding(sharding.make_mesh(data=2, fsdp=2, tensor=2))


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_batches_come_in_order_placed_and_with_the_state_after_them(placed):
    """The iterator itself is ahead: its own state would skip what was prefetched."""
    stream = data.prefetch(_Counting(), placed)
    for number in range(1, 6):
        batch, state = next(stream)
        assert state == {"taken": number}
        assert isinstance(batch["tokens"], jax.Array)
        assert batch["tokens"].sharding == placed
        np.testing.assert_array_equal(batch["tokens"], np.full((1, 8, 4), number))


def test_a_state_of_the_stream_resumes_after_its_batch(placed):
    """With the real batches, from a checkpoint in the middle of what is prefetched."""

    def batches():
        tokens = data.Tokens(np.arange(320), np.zeros(1, np.int64), 320)
        return data.Batches(
            tokens,
            sequence_tokens=4,
            batch_sequences=8,
            accumulation_steps=1,
            seed=3,
            respect_documents=False,
        )

    stream = data.prefetch(batches(), placed, depth=3)
    states, expected = [], []
    for _ in range(8):
        batch, state = next(stream)
        states.append(state)
        expected.append(np.asarray(batch["tokens"]))
    resumed = batches()
    resumed.set_state(states[4])
    stream = data.prefetch(resumed, placed)
    for tokens in expected[5:]:
        batch, _ = next(stream)
        np.testing.assert_array_equal(batch["tokens"], tokens)


def test_so_many_batches_wait_and_no_more(placed):
    """Too few and the device waits; too many and they fill its memory."""
    source = _Counting()
    stream = data.prefetch(source, placed, depth=3)
    next(stream)
    deadline = time.monotonic() + 10
    while source.taken < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert source.taken == 4


def test_the_thread_ends_when_the_stream_is_closed_or_dropped(placed):
    """A thread left over keeps reading, and holds the batches, until the exit."""
    stream = data.prefetch(_Counting(), placed)
    next(stream)
    assert len(_threads()) == 1
    stream.close()
    assert _threads() == []
    dropped = data.prefetch(_Counting(), placed)
    next(dropped)
    del dropped
    gc.collect()
    assert _threads() == []


def test_an_error_is_raised_where_its_batch_is_due(placed):
    """Swallowed by the thread, it would leave the consumer waiting for ever."""
    stream = data.prefetch(_Counting(fail_at=2), placed)
    assert [next(stream)[1]["taken"] for _ in range(2)] == [1, 2]
    with pytest.raises(errors.UserError, match="the disk is gone"):
        next(stream)
    assert _threads() == []


def test_one_process_reads_all_of_each_batch(placed):
    """Whatever the mesh."""
    assert data.process_share(placed) == (0, 1)


@pytest.mark.parametrize(
    ("owned", "expected"),
    [
        ({0: {0, 1}, 1: {2, 3}}, [(0, 2), (1, 2)]),
        # Devices in another order than processes.
        ({0: {2, 3}, 1: {0, 1}}, [(1, 2), (0, 2)]),
        ({0: {0, 2}, 1: {1, 3}}, [(0, 2), (1, 2)]),
        # Two processes hold one copy of the model: they read the same.
        ({0: {0}, 1: {0}, 2: {1}, 3: {1}}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ({0: {0}, 1: {0}}, [(0, 1), (0, 1)]),
    ],
)
def test_processes_that_share_devices_rows_share_their_data(owned, expected):
    """By process index alone, tensor parallelism over hosts would mix two batches."""
    assert [placement._share(owned, process) for process in owned] == expected


@pytest.mark.parametrize("owned", [{0: {0, 1}, 1: {1, 2}}, {0: {0, 1}, 1: {2}}])
def test_shares_that_overlap_in_part_are_refused(owned):
    """No split of the batch serves such a mesh."""
    with pytest.raises(errors.UserError, match="do not divide over processes"):
        placement._share(owned, 0)
