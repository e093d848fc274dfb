"""Tokenizes a stream of groups of texts in many processes, in order."""

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

import numpy as np
import tokenizers

from gptjax import errors
from gptjax.data import worker

Group = tuple[Sequence[str], Any]
Encoded = tuple[np.ndarray, np.ndarray, Any]


def encode_here(
    groups: Iterable[Group], tokenizer: tokenizers.Tokenizer
) -> Iterator[Encoded]:
    """`worker.encode` of every group of texts, in this process.

    Args:
      groups: texts, and anything, which comes back beside their ids.
      tokenizer: without truncation and padding.
    """
    for texts, note in groups:
        yield *worker.encode(tokenizer, texts), note


def encode_in_processes(
    groups: Iterable[Group], tokenizer: tokenizers.Tokenizer, *, workers: int
) -> Iterator[Encoded]:
    """As `encode_here`, with processes that are gone when the iterator ends.

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

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            process = idle.get()
            try:
                pickle.dump(texts, process.stdin)
                process.stdin.flush()
                return pickle.load(process.stdout)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
                raise errors.UserError(
                    f"a process that tokenizes died (exit code {process.wait()}); if "
                    "memory was short, set data.workers lower"
                ) from error
            finally:
                idle.put(process)

        threads = stack.enter_context(futures.ThreadPoolExecutor(workers))
        # Before the threads are joined: one that waits for a process gets its end.
        stack.callback(_kill, processes)
        pending = collections.deque()
        for texts, note in groups:
            pending.append((threads.submit(encode, texts), note))
            if len(pending) > 2 * workers:
                future, note = pending.popleft()
                yield *future.result(), note
        for future, note in pending:
            yield *future.result(), note


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
