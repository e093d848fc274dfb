"""Prunable leaves as matrices: stacked layers, inputs, outputs.

Patterns and calibrated criteria speak of a weight's inputs and outputs; a leaf may
have several axes of either (heads and their widths, say).
"""

import math

import jax

from gptjax import masks, tree

# How many of a leaf's axes, without L, are inputs; the others are outputs.
_INPUT_AXES: tree.Rules = ((r"blocks/attn/out/kernel", 2), (r".*", 1))


def input_axes(path: str) -> int:
    """How many of a leaf's axes, after L, are inputs."""
    return next(n for pattern, n in _INPUT_AXES if tree.covers(pattern, path))


def shape(path: str, leaf_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The number of layers, inputs and outputs of a leaf.

    An embedding (V, D) has the vocabulary as its inputs: it is read as the matrix
    that a one-hot token enters.
    """
    layers, own = (
        (leaf_shape[0], leaf_shape[1:])
        if masks.is_stacked(path)
        else (1, tuple(leaf_shape))
    )
    axes = input_axes(path)
    return layers, math.prod(own[:axes]), math.prod(own[axes:])


def view(path: str, leaf: jax.Array) -> jax.Array:
    """`leaf` as (layers, inputs, outputs)."""
    return leaf.reshape(shape(path, leaf.shape))
