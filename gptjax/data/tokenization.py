"""Texts to token ids: once, in parallel, into a cache."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import tokenizers

from gptjax import config, errors
from gptjax.data import cache, corpus, cutting, pool, sources, tokens, worker
from gptjax.data.tokenizer import Facts, Tokenizer

_VERSION = 3
"""Part of every cache key: to be raised when the same input gives other files."""
_GROUP_CHARACTERS = 1 << 20
"""What a process tokenizes at once, at some 140 bytes of memory a character."""
_SHARD_CHARACTERS = (1 << 22, 1 << 25)
"""Of small sources and of large ones: enough shards for all cores, not more files than
a process may open."""
_SHARDS = 64
"""How many a source has, if these bounds allow."""
_PARALLEL_BYTES = 8 << 20
"""Starting processes takes as long as tokenizing a few megabytes does."""


_Known = TypeVar("_Known")
"""What a piece of text carries with it."""


class _Piece(NamedTuple):
    """What is known of a text that is tokenized at once: a document, or part of one."""

    place: str
    is_first: bool
    """Of its document."""
    is_last: bool
    size_bytes: int
    done: int


def tokenize(
    source: config.Source,
    tokenizer: Tokenizer,
    *,
    append_eos: bool,
    workers: int,
    cache_dir: str | None,
    vocab_size: int | None,
    progress: bool,
) -> tokens.Tokens:
    """The token ids of a source, each document tokenized as one string.

    They are kept in a cache that knows the source by its files' paths, sizes and
    times of change, the tokenizer by its content. A document without tokens is left
    out. Special tokens spelled out in a text become that token, as in HF's call.

    Args:
      source: where the texts are.
      tokenizer: not loaded where the cache has the tokens.
      append_eos: end every document with the tokenizer's end-of-text token.
      workers: processes; 0 for one a core. Small sources need none.
      cache_dir: None for `~/.cache/gptjax/tokens`.
      vocab_size: of the model, to refuse an id beyond it; None not to.
      progress: show a bar, if the output is a terminal.

    Raises:
      UserError: one line naming the file and place.
    """
    opened = sources.open_corpus(source)
    folder = cache.cache_folder(cache_dir)
    facts = tokenizer.facts(folder)
    if append_eos and facts.eos_id is None:
        raise errors.UserError(
            "data.append_eos: the tokenizer has no end-of-text token (eos_token)"
        )
    eos_id = facts.eos_id if append_eos else None
    place = folder / _key(opened, facts, eos_id)
    found = cache.read(place, opened.name)
    if found is None:
        try:
            with cache.making(place) as made, _bar(opened, progress) as advance:
                _write(made, opened, tokenizer.backend, eos_id, workers, advance)
        except OSError as error:
            raise errors.UserError(
                f"{error.filename or folder}: {error.strerror}, while tokenizing "
                f"{opened.name} into the cache {folder} (data.cache_dir)"
            ) from error
        found = cache.read(place, opened.name)
        if found is None:
            raise errors.UserError(f"{place}: the cache does not keep what is written")
    result, index = found
    largest = index["largest_id"]
    if vocab_size is not None and largest >= vocab_size:
        token = tokenizer.backend.id_to_token(largest)
        raise errors.UserError(
            f"{index['largest_id_place']}: token {token!r} has "
            f"id {largest}, beyond the model's vocabulary of {vocab_size}"
        )
    return result


def tokenize_here(texts: Iterable[str], tokenizer: Tokenizer) -> tokens.Tokens:
    """The token ids of texts at hand, as `tokenize` gives them, kept nowhere.

    Every text is a document, those without tokens too.

    Raises:
      UserError: a text that is not Unicode.
    """
    texts = list(texts)
    size_bytes = sum(
        corpus.utf8_bytes(text, f"text {number}")
        for number, text in enumerate(texts, 1)
    )
    cut = cutting.cutter(tokenizer.backend)
    pieces = ((piece, n) for n, text in enumerate(texts) for piece in cut([text]))
    ids, counts = [np.zeros(0, np.int32)], np.zeros(len(texts), np.int64)
    for run in _runs(pieces, _GROUP_CHARACTERS):
        found = tokenizer.backend.encode_batch(
            [piece for piece, _ in run], add_special_tokens=False
        )
        for (_, number), each in zip(run, found, strict=True):
            ids.append(np.array(each.ids, np.int32))
            counts[number] += len(each.ids)
    return tokens.Tokens(
        ids=np.concatenate(ids),
        document_starts=np.cumsum(counts) - counts,
        bytes=size_bytes,
    )


def _key(opened: corpus.Corpus, facts: Facts, eos_id: int | None) -> str:
    """The name of the cache's folder for a source, a tokenizer and the settings."""
    known = [_VERSION, opened.identity, facts.digest, eos_id]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def _write(
    folder: pathlib.Path,
    opened: corpus.Corpus,
    backend: tokenizers.Tokenizer,
    eos_id: int | None,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Tokenizes a corpus into a folder."""
    ids_end = max(backend.get_vocab().values(), default=0)
    dtype = np.uint16 if max(ids_end, eos_id or 0) < 1 << 16 else np.int32
    size_bytes = begin = 0
    largest, largest_place = -1, ""
    workers = workers or _cores()
    with cache.Writer(folder) as writer:
        tasks = _tasks(opened, backend, eos_id, np.dtype(dtype).name, writer)
        if workers == 1 or opened.size_bytes < _PARALLEL_BYTES:
            done = pool.write_here(tasks, backend)
        else:
            done = pool.write_in_processes(tasks, backend, workers=workers)
        with contextlib.closing(done):
            for number, (written, pieces) in enumerate(done):
                if written.largest > largest:
                    largest = written.largest
                    largest_place = pieces[written.largest_text].place
                # Where each piece ends, counted over all shards.
                ends = writer.tokens + np.cumsum(written.counts)
                starts = []
                for end, piece in zip(ends.tolist(), pieces, strict=True):
                    size_bytes += piece.size_bytes
                    if piece.is_last and end > begin:
                        starts.append(begin)
                        begin = end
                writer.add(
                    number,
                    count=int(written.counts.sum()),
                    starts=starts,
                    size=written.size_bytes,
                    checksum=written.checksum,
                )
                advance(pieces[-1].done)
        if not writer.tokens:
            raise errors.UserError(f"{opened.name}: holds no text")
        writer.finish(
            dtype=dtype,
            bytes=size_bytes,
            largest_id=largest,
            largest_id_place=largest_place,
        )


def _tasks(
    opened: corpus.Corpus,
    backend: tokenizers.Tokenizer,
    eos_id: int | None,
    dtype: str,
    writer: cache.Writer,
) -> Iterator[pool.Task]:
    """The shards to write, each with its pieces' facts: cut by the source alone, so
    that however many processes write them, they are the same.
    """
    smallest, largest = _SHARD_CHARACTERS
    size = min(max(opened.size_bytes // _SHARDS, smallest), largest)
    pieces = _pieces(opened, cutting.cutter(backend))
    for number, shard in enumerate(_runs(pieces, size)):
        groups = [[text for text, _ in run] for run in _runs(shard, _GROUP_CHARACTERS)]
        facts = [piece for _, piece in shard]
        job = worker.Job(
            path=str(writer.path(number)),
            groups=groups,
            ends=[False if eos_id is None else _ends(piece) for piece in facts],
            eos_id=eos_id or 0,
            dtype=dtype,
            block_tokens=cache.BLOCK_TOKENS,
        )
        yield job, facts


def _ends(piece: _Piece) -> bool | None:
    """Whether an end-of-text token comes after a piece; see `worker.Job.ends`."""
    if not piece.is_last:
        return False
    # A document without tokens is none. One in several pieces has some before.
    return None if piece.is_first else True


def _runs(
    pieces: Iterable[tuple[str, _Known]], characters: int
) -> Iterator[list[tuple[str, _Known]]]:
    """Pieces in runs of at least so many characters; the last may have fewer."""
    run, length = [], 0
    for piece in pieces:
        run.append(piece)
        length += len(piece[0])
        if length >= characters:
            yield run
            run, length = [], 0
    if run:
        yield run


def _pieces(
    opened: corpus.Corpus, cut: Callable[[Iterable[str]], Iterator[str]]
) -> Iterator[tuple[str, _Piece]]:
    """The pieces of all documents, with what is known of them."""
    before = 0
    for text, place, done, _ in opened.read():
        parts = cut([text] if isinstance(text, str) else text)
        is_first, so_far = True, before
        part = next(parts)
        for following in itertools.chain(parts, [None]):
            size_bytes = corpus.utf8_bytes(part, place)
            is_last = following is None
            # Where a corpus counts bytes, a long text shows its progress.
            so_far = done if is_last else min(so_far + size_bytes, done)
            yield part, _Piece(place, is_first, is_last, size_bytes, so_far)
            is_first, part = False, following
        before = done


def _cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _bar(opened: corpus.Corpus, progress: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function that shows how much of a corpus is done."""
    if not progress or not sys.stdout.isatty():
        yield lambda done: None
        return
    import rich.progress

    with rich.progress.Progress(transient=True) as bar:
        task = bar.add_task(f"tokenizing {opened.name}", total=opened.total)
        yield lambda done: bar.update(task, completed=done)
