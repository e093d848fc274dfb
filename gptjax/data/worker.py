"""A filter from texts to shards of token ids: one process of a tokenization.

`pool.py` runs this file by its path. So it imports nothing of gptjax: JAX would
cost each process a second and its memory. A filter needs no `if __name__ ==
"__main__"` in a user's script either, as multiprocessing's workers do.
"""

import pathlib
import pickle
import signal
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from array_record.python import array_record_module


class Job(NamedTuple):
    """A shard to be written.

    Attributes:
      path: of the file.
      groups: texts, in order; those of a group are tokenized at once.
      ends: for each text, whether an end-of-text token comes after it: always, never,
        or only if the text has a token itself (None).
      eos_id: that token.
      dtype: of the ids, by name.
      block_tokens: ids in a record; the last may have fewer.
    """

    path: str
    groups: Sequence[Sequence[str]]
    ends: Sequence[bool | None]
    eos_id: int
    dtype: str
    block_tokens: int


class Written(NamedTuple):
    """A shard that was written.

    Attributes:
      counts: how many ids each text has, its end-of-text included.
      largest: the largest id of the texts, -1 if there is none.
      largest_text: the number of a text that has it.
      size_bytes, checksum: of the file; zlib.crc32.
    """

    counts: np.ndarray
    largest: int
    largest_text: int
    size_bytes: int
    checksum: int


def write(tokenizer: tokenizers.Tokenizer, job: Job) -> Written:
    """Writes a shard: array records, each a block of ids in little-endian bytes.

    No token is added but those of `job.ends`.

    Raises:
      OSError: the file cannot be written.
    """
    dtype = np.dtype(job.dtype).newbyteorder("<")
    counts: list[int] = []
    largest, largest_text = -1, 0
    waiting = np.empty(0, dtype)
    ends = iter(job.ends)
    try:
        # A record a chunk, that one can be read without others; noise to a compressor.
        writer = array_record_module.ArrayRecordWriter(
            job.path, "group_size:1,uncompressed"
        )
        for texts in job.groups:
            parts = [waiting]
            for encoding in tokenizer.encode_batch_fast(
                list(texts), add_special_tokens=False
            ):
                ids = np.asarray(encoding.ids, dtype)
                if len(ids) and (top := int(ids.max())) > largest:
                    largest, largest_text = top, len(counts)
                end = next(ends)
                parts.append(ids)
                if end or (end is None and len(ids)):
                    parts.append(np.array([job.eos_id], dtype))
                    counts.append(len(ids) + 1)
                else:
                    counts.append(len(ids))
            waiting = np.concatenate(parts)
            whole = len(waiting) // job.block_tokens * job.block_tokens
            for begin in range(0, whole, job.block_tokens):
                writer.write(waiting[begin : begin + job.block_tokens].tobytes())
            waiting = waiting[whole:]
        if len(waiting):
            writer.write(waiting.tobytes())
        writer.close()
    except RuntimeError as error:  # the writer's, of a full disk, say
        raise OSError(None, str(error).splitlines()[0], job.path) from error
    content = pathlib.Path(job.path).read_bytes()
    return Written(
        np.array(counts, np.int64),
        largest,
        largest_text,
        len(content),
        zlib.crc32(content),
    )


def main() -> None:
    """Reads pickled jobs until the end, writes what `write` gives or why it failed.

    A job comes as a plain tuple, and its result goes as one: under its path's name
    this file is another module than the one that reads it. The one argument is the
    path of a tokenizer.json.
    """
    # Ctrl-C is the parent's business: it then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    while True:
        try:
            job: Any = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result: Any = tuple(write(tokenizer, Job(*job)))
        except OSError as error:
            result = error
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
