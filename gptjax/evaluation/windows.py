"""The sliding windows in which a model reads a text longer than its context."""

from collections.abc import Iterator

import numpy as np

from gptjax import errors

LONGEST = 2048
"""Tokens of a window unless more are asked for: models that read much longer texts are
measured so, too, and attention over 131,072 tokens takes 64 GB for each head."""


def context_of(n_positions: int, wanted: int | None = None) -> int:
    """The tokens of a window: those wanted, or all positions up to `LONGEST`."""
    return min(n_positions, LONGEST) if wanted is None else wanted


def check(*, context: int, stride: int, n_positions: int, tokens: int) -> None:
    """Raises a `UserError` unless windows of this kind can be cut from a text."""
    if context < 2:
        raise errors.UserError(
            f"context {context}: a window needs at least 2 tokens to predict one"
        )
    if context > n_positions:
        raise errors.UserError(
            f"context {context} is longer than the model's n_positions {n_positions}"
        )
    if stride < 1:
        raise errors.UserError(f"stride {stride}: it must be at least 1")
    if stride > context:
        raise errors.UserError(
            f"stride {stride} is longer than the context {context} and would skip "
            "tokens; it may be at most the context"
        )
    if tokens < 2:
        raise errors.UserError(
            f"the text has {tokens} tokens; at least 2 are needed to predict one"
        )


def bounds(tokens: int, *, context: int, stride: int) -> np.ndarray:
    """Where windows start and end, and from where on they predict.

    The sliding window of Hugging Face's documentation ("Perplexity of fixed-length
    models"): windows start every `stride` tokens until one reaches the end of the
    text, and each predicts what no window before it predicted. The first token of a
    window has nothing before it and is never predicted there.

    Returns:
      An int64 array of rows (start, end, first predicted), one a window.
    """
    count = 1 + max(0, -(-(tokens - context) // stride))
    starts = np.arange(count) * stride
    ends = np.minimum(starts + context, tokens)
    seen = np.concatenate([[0], ends[:-1]])
    return np.stack([starts, ends, np.maximum(seen, starts + 1)], axis=1)


def batches(
    ids_N: np.ndarray, bounds_W3: np.ndarray, *, context: int, sequences: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The windows in batches of one shape.

    Short windows are filled up on the right, the last batch with rows, and nothing
    is predicted there.

    Yields:
      tokens_BT int32, and is_predicted_BT bool: whether the window predicts the
      token in that place.
    """
    for begin in range(0, len(bounds_W3), sequences):
        tokens_BT = np.zeros((sequences, context), np.int32)
        is_predicted_BT = np.zeros((sequences, context), bool)
        for row, window in enumerate(bounds_W3[begin : begin + sequences]):
            start, end, first = (int(place) for place in window)
            tokens_BT[row, : end - start] = ids_N[start:end]
            is_predicted_BT[row, first - start : end - start] = True
        yield tokens_BT, is_predicted_BT
