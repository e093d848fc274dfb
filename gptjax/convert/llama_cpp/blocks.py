"""Weights as ggml stores them: float32, 16 bits, or codes in blocks of 32.

A block of Q8_0 is a scale d of float16 and 32 codes q of 8 bits, -128 to 127; one of
Q4_0 the same with q + 8 of 4 bits, the first 16 in the low halves of the bytes. Either
stands for d q, so that 0 is a code and a pruned weight stays exactly 0.
"""

from typing import Any

import ml_dtypes
import numpy as np

from gptjax import errors

BLOCK = 32
_BITS = {"Q8_0": 8, "Q4_0": 4}
_PLAIN = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_KINDS = {dtype: kind for kind, dtype in _PLAIN.items()}


def kind_of(dtype: Any) -> str:
    """ggml's name of a floating dtype."""
    return _KINDS[np.dtype(dtype)]


def bits_of(kind: str) -> int | None:
    """Of a code; None where there are none."""
    return _BITS.get(kind)


def nbytes(shape: tuple[int, ...], kind: str) -> int:
    """How many bytes a tensor takes."""
    count = int(np.prod(shape))
    if kind in _PLAIN:
        return count * _PLAIN[kind].itemsize
    return count // BLOCK * (2 + BLOCK * _BITS[kind] // 8)


def stored(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """The bytes of a tensor, uint8, each weight rounded to what is nearest.

    Raises:
      UserError: numbers too large for the kind.
    """
    if kind in _PLAIN:
        try:
            with np.errstate(over="raise"):
                own = np.ascontiguousarray(values.astype(_PLAIN[kind]))
        except FloatingPointError as error:
            raise errors.UserError(
                f"{name} has numbers too large for {kind}"
            ) from error
        return own.reshape(-1).view(np.uint8)
    import gguf

    values = np.ascontiguousarray(values, np.float32)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])


def stored_codes(
    codes: np.ndarray, scales: np.ndarray, kind: str, name: str
) -> np.ndarray:
    """The same of weights that are codes already; only scales are rounded, to float16.

    Args:
      codes: integers, whose rows are whole blocks.
      scales: one for each block, in their order.

    Raises:
      UserError: a scale that is 0 or infinite in float16.
    """
    blocks = codes.reshape(-1, BLOCK).astype(np.int8)
    with np.errstate(over="ignore"):
        halves = scales.reshape(-1, 1).astype(np.float16)
    if not np.isfinite(halves).all() or (halves == 0).any():
        raise errors.UserError(f"{name} has scales that float16 does not hold")
    if _BITS[kind] == 4:
        own = (blocks + 8).astype(np.uint8)
        own = own[:, : BLOCK // 2] | own[:, BLOCK // 2 :] << 4
    else:
        own = blocks.view(np.uint8)
    return np.concatenate([halves.view(np.uint8), own], axis=1)


def values_of(data: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the stored numbers of a tensor stand for; a view where they are plain.

    Raises:
      UserError: a kind of ggml's that gptjax does not write.
    """
    if kind in _PLAIN:
        return data.reshape(-1).view(np.uint8).view(_PLAIN[kind]).reshape(shape)
    import gguf

    found = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    return found.reshape(shape)
