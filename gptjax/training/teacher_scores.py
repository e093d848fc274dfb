"""A teacher's scores of every training sequence: read once, kept on disk.

    KEY/index.json     what they are of
    KEY/scores.bin     a record for each sequence, in the order of the text
    KEY/scores.part    the same while the teacher still reads

A record holds for each token the ids of its likeliest next ones, and in float16 the
logarithms of their chances, the last one that of all others together. KEY tells
teachers, texts and ways to read apart, so that a folder may hold many.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import data, errors, files, model, sharding
from gptjax.evaluation import bars
from gptjax.training import signals

IDS, LOG_CHANCES = "teacher_ids", "teacher_log_chances"
"""What the arrays are called in a batch: (..., T, J) and (..., T, J + 1)."""

_LEAST = float(np.finfo(np.float16).min)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a teacher reads, how, and what is kept of it.

    Attributes:
      top_k: J.
      temperature: what scores are divided by before they become chances.
      compute: how the teacher computes.
    """

    text: data.Tokens
    sequence_tokens: int
    respect_documents: bool
    vocab_size: int
    top_k: int
    temperature: float
    compute: model.Compute

    @functools.cached_property
    def sequences(self) -> int:
        """How many are read: every one that batches are made of."""
        return data.count_sequences(self.text, self.sequence_tokens)

    @property
    def record(self) -> np.dtype:
        """What is kept of a sequence.

        float16, because its rounding moves a divergence by some 5e-5 nats a token,
        where leaving words out moves it by hundredths.
        """
        id_type = "<u2" if self.vocab_size <= 1 << 16 else "<i4"
        length = self.sequence_tokens
        return np.dtype(
            [
                (IDS, id_type, (length, self.top_k)),
                (LOG_CHANCES, "<f2", (length, self.top_k + 1)),
            ]
        )

    @property
    def bytes(self) -> int:
        """What all of it takes on disk."""
        return self.sequences * self.record.itemsize

    def facts(self, teacher: str) -> dict[str, Any]:
        """All that the scores depend on.

        Args:
          teacher: its digest.
        """
        return {
            "teacher": teacher,
            "tokens": len(self.text),
            "checksum": self.text.checksum,
            "sequence_tokens": self.sequence_tokens,
            "respect_documents": self.respect_documents,
            "vocab_size": self.vocab_size,
            "top_k": self.top_k,
            "temperature": self.temperature,
            "compute_dtype": jnp.dtype(self.compute.dtype).name,
        }


class Scores:
    """The scores of sequences by their numbers, as `data.Batches` wants them."""

    def __init__(self, path: pathlib.Path, record: np.dtype):
        self.path, self._record = path, record

    def __call__(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """`IDS` and `LOG_CHANCES` of sequences (...), from their numbers."""
        rows = np.empty(numbers.shape, self._record)
        # Read and not mapped: what was mapped once counts as this process's memory.
        with self.path.open("rb") as file:
            for place, number in np.ndenumerate(numbers):
                file.seek(int(number) * self._record.itemsize)
                row = np.fromfile(file, self._record, 1)
                if not len(row):
                    raise errors.UserError(_damaged(self.path))
                rows[place] = row[0]
        return {name: np.ascontiguousarray(rows[name]) for name in (IDS, LOG_CHANCES)}


def scores(
    reading: Reading,
    folder: pathlib.Path,
    *,
    teacher: str,
    load: Callable[[], tuple[model.Config, Any]],
    mesh: Mesh,
    batch_sequences: int,
) -> Scores:
    """The scores of a teacher, which reads the text first if it has not yet.

    Interrupted, it goes on where it was when the same is asked for again.

    Args:
      folder: where scores are kept, by their keys; on a disk that all processes share.
      teacher: its digest, from `convert.digest`.
      load: gives its config and its params on the mesh; called only if it is to read.
      batch_sequences: sequences that it reads at once; the mesh divides them.

    Raises:
      UserError: no room for them, or they cannot be written or are damaged.
      Stopped: by a signal.
    """
    facts = reading.facts(teacher)
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = folder / key / "scores.bin"
    is_made = path.exists()
    # Or one process could find what another has just made, and go ahead of it.
    sharding.sync("scores sought")
    if not is_made:
        with _told(path):
            _make(reading, path, facts, load, mesh, batch_sequences)
    if path.stat().st_size != reading.bytes:
        raise errors.UserError(_damaged(path))
    return Scores(path, reading.record)


def _make(reading, path, facts, load, mesh, batch_sequences) -> None:
    """Lets the teacher read; the first process writes."""
    is_main = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        done, file = 0, None
        if is_main:
            _check_room(reading, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(path.parent))
            if path.exists():
                done = reading.sequences
            else:
                files.write_json(path.with_name("index.json"), facts)
                file, done = _continued(stack, reading, path, batch_sequences)
        if jax.process_count() > 1:
            done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))
        if done < reading.sequences:
            _read(reading, file, done, load, mesh, batch_sequences)
        if file is not None:
            path.with_suffix(".part").replace(path)
        sharding.sync("scores made")


def _continued(
    stack: contextlib.ExitStack,
    reading: Reading,
    path: pathlib.Path,
    batch_sequences: int,
) -> tuple[IO[bytes], int]:
    """The file to append to, and how many sequences are in it: whole batches."""
    file = stack.enter_context(path.with_suffix(".part").open("ab"))
    size = reading.record.itemsize
    done = min(file.tell() // size, reading.sequences)
    if done < reading.sequences:
        done -= done % batch_sequences
    file.truncate(done * size)
    print(
        f"the teacher reads {reading.sequences - done:,} of {reading.sequences:,} "
        f"sequences; {reading.top_k} likeliest next tokens of each token take "
        f"{reading.bytes / 1e6:,.1f} MB in {path.parent}",
        flush=True,
    )
    return file, done


def _read(reading, file, done, load, mesh, batch_sequences) -> None:
    """Appends what the teacher makes of all sequences from number `done` on."""
    config, params = load()
    read = _reader(reading, config, mesh)
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))

    def begun(start):
        numbers = np.arange(start, start + batch_sequences)
        batch = data.pack(
            reading.text,
            np.minimum(numbers, reading.sequences - 1),
            sequence_tokens=reading.sequence_tokens,
            respect_documents=reading.respect_documents,
        )
        del batch["labels"]
        return start, read(params, sharding.place(batch, dict.fromkeys(batch, rows)))

    starts = range(done, reading.sequences, batch_sequences)
    shown = (start for start in starts)
    if file is not None:
        shown = bars.track(starts, total=len(starts), what="the teacher reads")
    pending = None
    # A bar that is left alone goes on drawing.
    with signals.StopRequest() as stop, contextlib.closing(shown):
        for number, start in enumerate(shown, 1):
            # The device has its next batch before the last one is written.
            pending, last = begun(start), pending
            if last is not None:
                _append(reading, file, *last)
            if stop.reached(number):
                _append(reading, file, *pending)
                raise errors.Stopped(
                    f"stopped by {stop.signal.name} while the teacher read; what it "
                    "made of the text so far is kept, the same command goes on",
                    signal=stop.signal,
                )
        _append(reading, file, *pending)


def _reader(
    reading: Reading, config: model.Config, mesh: Mesh
) -> Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]:
    """The jitted teacher: ids and log chances of a batch, whole on every process."""
    config, compute = config.without_dropout(), reading.compute

    def read(params, batch):
        x_BTD = model.hidden(
            config,
            params,
            batch["tokens"],
            compute=compute,
            segments_BT=batch.get("segments"),
        )
        ids_BTJ, log_chances_BTR = model.likeliest(
            config,
            params,
            x_BTD,
            count=reading.top_k,
            temperature=reading.temperature,
            compute=compute,
        )
        # A chance of e^-65504 is none, and the logarithm of none is no number.
        return ids_BTJ, jnp.maximum(log_chances_BTR, _LEAST).astype(jnp.float16)

    return jax.jit(read, out_shardings=sharding.replicated(mesh))


def _append(reading, file, start, found) -> None:
    """Writes a batch's records, but those beyond the last sequence."""
    ids, log_chances = (np.asarray(array) for array in found)
    if file is None:
        return
    if not np.isfinite(log_chances).all():
        raise errors.UserError(
            f"distillation.teacher: its scores of sequence {start} or one soon after "
            "are not finite"
        )
    rows = np.empty(min(len(ids), reading.sequences - start), reading.record)
    rows[IDS], rows[LOG_CHANCES] = ids[: len(rows)], log_chances[: len(rows)]
    file.write(rows.tobytes())
    file.flush()
    os.fsync(file.fileno())


def _check_room(reading: Reading, path: pathlib.Path) -> None:
    """Raises a `UserError` where the disk has less than what is still to be written."""
    part = path.with_suffix(".part")
    missing = reading.bytes - (part.stat().st_size if part.exists() else 0)
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise errors.UserError(
            f"distillation.cache_top_k: {reading.top_k} for each of "
            f"{len(reading.text):,} tokens take {missing / 1e9:,.1f} GB more in "
            f"{path.parent}, where {free / 1e9:,.1f} GB are free; keep fewer, or give "
            "distillation.cache_dir"
        )


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[None]:
    """The folder for this process alone; waits for another one that has it."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the process that fills {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """Turns what the disk refuses into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; make room, and the same command goes on"
        raise errors.UserError(f"{path}: cannot be written: {reason}") from error


def _damaged(path: pathlib.Path) -> str:
    return f"{path}: damaged; remove its folder, which is then made again"
