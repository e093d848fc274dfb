"""The queue: what fits, what is cancelled, and what becomes of jobs at the end."""

import queue
import threading

import pytest

from gptjax import generation
from gptjax.serving import scheduler as scheduler_lib


class _Slots:
    """Slots that write the number of the step, when they are let."""

    context = 100

    def __init__(self, count):
        self.count = count
        self.steps = threading.Semaphore(0)
        self.held = {}
        self.fails = False
        self.takes = True

    @property
    def free(self):
        return self.count - len(self.held)

    def compile(self):
        pass

    def insert(self, prompt, options, key, *, wants_log_probs):
        if not self.takes:
            raise MemoryError("no room")
        slot = next(each for each in range(self.count) if each not in self.held)
        self.held[slot] = 0
        return slot

    def remove(self, slot):
        del self.held[slot]

    def read(self, tokens):
        pass

    def step(self):
        self.steps.acquire()
        if self.fails:
            raise MemoryError("no room")
        for slot in self.held:
            self.held[slot] += 1
        return [generation.Token(*each, None) for each in self.held.items()]


@pytest.fixture
def make():
    """A function (slots, queue) -> scheduler and its slots, closed at the end."""
    made = []

    def start(count, longest_queue):
        slots = _Slots(count)
        made.append(
            (scheduler_lib.Scheduler(slots, longest_queue=longest_queue), slots)
        )
        return made[-1]

    yield start
    for scheduler, slots in made:
        slots.steps.release(100)
        scheduler.close()


def _job(new=3, ends=()):
    events = queue.Queue()
    options = generation.Options(max_new_tokens=new, eos_token_id=ends)
    return scheduler_lib.Job([1], options, None, events.put), events


def _ids(events, count):
    return [events.get(timeout=10).id for _ in range(count)]


def test_jobs_end_with_their_last_token_or_their_end(make):
    """One token more would be a neighbour's step in vain, or a text too long."""
    scheduler, slots = make(2, 5)
    (first, one), (second, two), (third, three) = _job(3), _job(9, ends=(2,)), _job(2)
    scheduler.submit([first, second, third])
    slots.steps.release(5)
    assert (_ids(one, 3), _ids(two, 2), _ids(three, 2)) == ([1, 2, 3], [1, 2], [1, 2])
    assert one.empty()
    assert two.empty()


def test_a_request_is_queued_whole_or_not_at_all(make):
    """Half of it would be written for an answer that is never given."""
    scheduler, slots = make(1, 2)
    jobs = [_job(2) for _ in range(4)]
    with pytest.raises(scheduler_lib.Full):
        scheduler.submit([job for job, _ in jobs])
    scheduler.submit([job for job, _ in jobs[:3]])
    with pytest.raises(scheduler_lib.Full):
        scheduler.submit([jobs[3][0]])
    slots.steps.release(6)
    for _, events in jobs[:3]:
        assert _ids(events, 2) == [1, 2]
    scheduler.submit([jobs[3][0]])
    slots.steps.release(2)
    assert _ids(jobs[3][1], 2) == [1, 2]


def test_a_cancelled_job_leaves_slot_and_queue(make):
    """Its place is the next one's at the very next step."""
    scheduler, slots = make(1, 5)
    (running, its), (waiting, none), (last, own) = (_job(50), _job(50), _job(2))
    scheduler.submit([running, waiting, last])
    slots.steps.release(2)
    assert _ids(its, 2) == [1, 2]
    scheduler.cancel([running, waiting])
    slots.steps.release(3)
    assert _ids(own, 2) == [1, 2]
    assert its.empty()
    assert none.empty()
    assert scheduler.waiting == 0


def test_all_are_told_of_a_failure(make, monkeypatch):
    """Else they would wait for ever, and so would all who come later."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    scheduler, slots = make(1, 5)
    (running, its), (waiting, own) = _job(5), _job(5)
    scheduler.submit([running, waiting])
    slots.fails = True
    slots.steps.release()
    for events in (its, own):
        ended = events.get(timeout=10)
        assert isinstance(ended, scheduler_lib.Ended)
        assert "MemoryError" in str(ended)
    assert "MemoryError" in scheduler.failure
    with pytest.raises(scheduler_lib.Ended):
        scheduler.submit([_job()[0]])


def test_so_is_one_who_was_to_have_a_slot(make, monkeypatch):
    """Between queue and slot he is in neither, and might be forgotten."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    scheduler, slots = make(1, 5)
    slots.takes = False
    job, events = _job(5)
    scheduler.submit([job])
    assert isinstance(events.get(timeout=10), scheduler_lib.Ended)


def test_closing_tells_those_who_are_left(make):
    """After the grace that a server gives them."""
    scheduler, slots = make(1, 5)
    (running, its), (waiting, own) = _job(500), _job(5)
    scheduler.submit([running, waiting])
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    slots.steps.release(2)
    closing.join(10)
    assert isinstance(own.get(timeout=10), scheduler_lib.Ended)
    while not isinstance(its.get(timeout=10), scheduler_lib.Ended):
        pass
