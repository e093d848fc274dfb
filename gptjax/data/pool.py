"""Writes shards of token ids in many processes, in order."""

import collections
import contextlib
import os
import pathlib
import pickle
import queue
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import tokenizers

from gptjax import errors
from gptjax.data import worker

Task = tuple[worker.Job, Any]
Done = tuple[worker.Written, Any]


def write_here(
    tasks: Iterable[Task], tokenizer: tokenizers.Tokenizer
) -> Iterator[Done]:
    """`worker.write` of every job, in this process.

    Args:
      tasks: jobs, each with anything, which comes back beside what was written.
      tokenizer: without truncation and padding.
    """
    for job, note in tasks:
        yield worker.write(tokenizer, job), note


def write_in_processes(
    tasks: Iterable[Task], tokenizer: tokenizers.Tokenizer, *, workers: int
) -> Iterator[Done]:
    """As `write_here`, with processes that are gone when the iterator ends.

    Of each job but those at work and one that waits, no text is held.

    Raises:
      UserError: a process died.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokenizer.save(str(folder / "tokenizer.json"))
        processes = [stack.enter_context(_process(folder)) for _ in range(workers)]
        idle = queue.SimpleQueue()
        for process in processes:
            idle.put(process)

        def write(job: worker.Job) -> worker.Written:
            process = idle.get()
            try:
                pickle.dump(tuple(job), process.stdin)
                process.stdin.flush()
                result = pickle.load(process.stdout)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
                raise errors.UserError(
                    f"a process that tokenizes died (exit code {process.wait()}); if "
                    "memory was short, set data.workers lower"
                ) from error
            finally:
                idle.put(process)
            if isinstance(result, OSError):
                raise result
            return worker.Written(*result)

        threads = stack.enter_context(futures.ThreadPoolExecutor(workers))
        # Before the threads are joined: one that waits for a process gets its end.
        stack.callback(_kill, processes)
        pending = collections.deque()
        for job, note in tasks:
            pending.append((threads.submit(write, job), note))
            del job
            if len(pending) > workers:
                future, note = pending.popleft()
                yield future.result(), note
        for future, note in pending:
            yield future.result(), note


@contextlib.contextmanager
def _process(folder: pathlib.Path) -> Iterator[subprocess.Popen]:
    """A running worker with the tokenizer of a folder."""
    # -P: the folder of worker.py must not come before the standard library.
    process = subprocess.Popen(
        [sys.executable, "-P", worker.__file__, str(folder / "tokenizer.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        yield process
    finally:
        _kill([process])
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _kill(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
