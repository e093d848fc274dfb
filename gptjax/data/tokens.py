"""Token ids of a whole source."""

import dataclasses

import numpy as np

from gptjax.data import shards


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The documents of a source, tokenized and joined."""

    ids: np.ndarray | shards.Ids
    """(N,) uint16 or int32; N is `len()`. Slices and arrays of places are read."""
    document_starts: np.ndarray
    """Where in `ids` each document begins, rising from 0; int64."""
    bytes: int
    """How long all texts are in UTF-8."""
    name: str = "the tokens"
    """What messages call the source."""
    checksum: int = 0
    """Of `ids`, to tell that a run resumes on the same ones."""

    def __len__(self) -> int:
        return len(self.ids)
