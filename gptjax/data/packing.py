"""Fixed-length sequences cut from a source's tokens, with labels and documents."""

import numpy as np

from gptjax import errors
from gptjax.data import tokens

IGNORED = -100
"""The label of a token that is not to be predicted, Hugging Face's."""


def count_sequences(data: tokens.Tokens, sequence_tokens: int) -> int:
    """How many whole sequences the tokens give; what is left at the end is dropped.

    Raises:
      UserError: not even one.
    """
    sequences = len(data) // sequence_tokens
    if not sequences:
        raise errors.UserError(
            f"{data.name}: {len(data)} tokens, but one sequence needs "
            f"{sequence_tokens} (data.sequence_tokens)"
        )
    return sequences


def pack(
    data: tokens.Tokens,
    numbers: np.ndarray,
    *,
    sequence_tokens: int,
    respect_documents: bool,
) -> dict[str, np.ndarray]:
    """The sequences of the given numbers, counted from the beginning of the tokens.

    Args:
      data: tokens.
      numbers: integers of any shape, ... .
      sequence_tokens: T.
      respect_documents: keep documents apart.

    Returns:
      `tokens` (..., T) int32 and `labels`, the same, shifted by nobody yet. With
      `respect_documents` a document's first token has the label -100, for no token
      before it knows of it; and `segments` (..., T) int32 says to which document a
      token belongs, numbered from 0 within each sequence.
    """
    places = numbers[..., None] * sequence_tokens + np.arange(sequence_tokens)
    ids = np.asarray(data.ids[places], np.int32)
    if not respect_documents:
        return {"tokens": ids, "labels": ids.copy()}
    documents = np.searchsorted(data.document_starts, places, side="right") - 1
    is_first = data.document_starts[documents] == places
    return {
        "tokens": ids,
        "labels": np.where(is_first, np.int32(IGNORED), ids),
        "segments": (documents - documents[..., :1]).astype(np.int32),
    }
