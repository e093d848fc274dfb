"""How many bytes weights take when they are zipped."""

import zlib
from typing import Any

import numpy as np

from gptjax import model
from gptjax.convert import exporting, names

LEVEL = 1
"""Of deflate, the quickest: higher ones take several times as long on weights, for
some hundredths of their size."""


def weights_bytes(config: model.Config, params: Any) -> int:
    """The size of weights, as float32, after deflate (zlib at `LEVEL`).

    One stream over the tensors of an export in the order of torch's state dict, each
    gathered by itself, so that the host never holds a second copy of the model.
    Other dtypes count as the float32 numbers that they stand for, so that a source
    and what was made of it compare. Heads of zeros that an export may need in the
    place of removed ones are left out.

    A collective where params are spread over several processes: all must call it.
    """
    flat = exporting.check(config, params)
    packer = zlib.compressobj(LEVEL)
    size = 0
    for _, leaf, part, layer in names.in_hf_order(config):
        for piece in exporting.pieces(flat[leaf.path], leaf, part, layer):
            numbers = np.ascontiguousarray(piece, np.float32).reshape(-1)
            size += len(packer.compress(numbers.data))
    return size + len(packer.flush())
