"""Texts to token ids: once, in parallel, into a cache."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tokenizers

from gptjax import config, errors
from gptjax.data import corpus, cutting, pool, sources, tokens

_VERSION = 1
"""Part of every cache key: to be raised when the same input gives other tokens."""
_GROUP_CHARACTERS = 1 << 20
_PARALLEL_BYTES = 8 << 20
"""Starting processes takes as long as tokenizing a few megabytes does."""


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What is known of a text that is being tokenized: a document, or a part of one."""

    place: str
    is_last: bool
    """Of its document."""
    size_bytes: int
    done: int


def tokenize(
    source: config.Source,
    tokenizer: Any,
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
      tokenizer: a fast Hugging Face tokenizer.
      append_eos: end every document with the tokenizer's end-of-text token.
      workers: processes; 0 for one a core. Small sources need none.
      cache_dir: None for `~/.cache/gptjax/tokens`.
      vocab_size: of the model, to refuse an id beyond it; None not to.
      progress: show a bar, if the output is a terminal.

    Raises:
      UserError: one line naming the file and place.
    """
    opened = sources.open_corpus(source)
    backend = _plain_copy(tokenizer)
    if append_eos and tokenizer.eos_token_id is None:
        raise errors.UserError(
            "data.append_eos: the tokenizer has no end-of-text token (eos_token)"
        )
    eos_id = tokenizer.eos_token_id if append_eos else None
    folder = pathlib.Path(cache_dir or "~/.cache/gptjax/tokens").expanduser()
    place = folder / _key(opened, backend, eos_id)
    found = tokens.read(place, opened.name)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder, prefix=f"{place.name}.", ignore_cleanup_errors=True
            ) as beside:
                made = pathlib.Path(beside, "tokens")
                made.mkdir()
                with _bar(opened, progress) as advance:
                    _write(made, opened, backend, eos_id, workers, advance)
                tokens.put(made, place)
        except OSError as error:
            raise errors.UserError(
                f"{error.filename or folder}: {error.strerror}, while tokenizing "
                f"{opened.name} into the cache {folder} (data.cache_dir)"
            ) from error
        found = tokens.read(place, opened.name)
        if found is None:
            raise errors.UserError(f"{place}: the cache does not keep what is written")
    result, facts = found
    largest = facts["largest_id"]
    if vocab_size is not None and largest >= vocab_size:
        raise errors.UserError(
            f"{facts['largest_id_place']}: token {backend.id_to_token(largest)!r} has "
            f"id {largest}, beyond the model's vocabulary of {vocab_size}"
        )
    return result


def _plain_copy(tokenizer: Any) -> tokenizers.Tokenizer:
    """The Rust tokenizer, without the truncation and padding of its file."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _key(
    opened: corpus.Corpus, backend: tokenizers.Tokenizer, eos_id: int | None
) -> str:
    """The name of the cache's folder for a source, a tokenizer and the settings."""
    known = [_VERSION, opened.identity, backend.to_str(), eos_id]
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
    groups = _groups(opened, cutting.cutter(backend))
    workers = workers or _cores()
    if workers == 1 or opened.size_bytes < _PARALLEL_BYTES:
        encoded = pool.encode_here(groups, backend)
    else:
        encoded = pool.encode_in_processes(groups, backend, workers=workers)
    ids_end = max(backend.get_vocab().values(), default=0)
    dtype = np.uint16 if max(ids_end, eos_id or 0) < 1 << 16 else np.int32
    size_bytes = begin = 0
    largest, largest_place = -1, ""
    with tokens.Writer(folder, dtype) as writer, contextlib.closing(encoded):
        for ids, counts, pieces in encoded:
            if len(ids) and ids.max() > largest:
                at = np.searchsorted(np.cumsum(counts), ids.argmax(), side="right")
                largest, largest_place = int(ids.max()), pieces[at].place
            parts = np.split(ids, np.cumsum(counts)[:-1])
            for part, piece in zip(parts, pieces, strict=True):
                writer.append(part)
                size_bytes += piece.size_bytes
                if piece.is_last and writer.tokens > begin:
                    if eos_id is not None:
                        writer.append(np.array([eos_id]))
                    writer.end_document(begin)
                    begin = writer.tokens
            advance(pieces[-1].done)
        if not writer.tokens:
            raise errors.UserError(f"{opened.name}: holds no text")
        writer.finish(
            bytes=size_bytes, largest_id=largest, largest_id_place=largest_place
        )


def _groups(
    opened: corpus.Corpus, cut: Callable[[str], Iterator[str]]
) -> Iterator[pool.Group]:
    """Texts in groups worth a process's while, each with its pieces' facts."""
    texts, pieces, characters = [], [], 0
    for text, place, done in opened.read():
        parts = list(cut(text))
        for number, part in enumerate(parts, 1):
            try:
                size_bytes = len(part.encode())
            except UnicodeEncodeError as error:
                raise errors.UserError(
                    f"{place}: not Unicode: a lone surrogate "
                    f"\\u{ord(part[error.start]):04x}"
                ) from error
            texts.append(part)
            pieces.append(_Piece(place, number == len(parts), size_bytes, done))
            characters += len(part)
            if characters >= _GROUP_CHARACTERS:
                yield texts, pieces
                texts, pieces, characters = [], [], 0
    if texts:
        yield texts, pieces


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
