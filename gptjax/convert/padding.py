"""Removed heads on export: heads of zeros in their place.

Stock transformers has no width of heads but `n_embd / n_head`. A model with fewer
heads than that is written with heads of zeros: their queries, keys and values are
0, so they gather 0, and their rows of the output projection are 0 too.
"""

import dataclasses

import numpy as np

from gptjax import errors, model


def padded(config: model.Config) -> model.Config:
    """The config with as many heads as make up `n_embd`: mostly `config` itself.

    Raises:
      UserError: a width of heads that does not divide `n_embd`, or more heads than
        make it up.
    """
    if config.head_dim is None:
        return config
    heads, rest = divmod(config.n_embd, config.head_dim)
    if rest or heads < config.n_head:
        raise errors.UserError(
            f"{config.n_head} heads of width {config.head_dim} cannot be made up to "
            f"n_embd {config.n_embd} with heads of zeros, so stock transformers cannot "
            "load them; keep the model as a gptjax folder"
        )
    return dataclasses.replace(config, n_head=heads, head_dim=None)


def padded_heads(config: model.Config) -> int:
    """How many heads of zeros an export adds to each layer: 0 for most models."""
    return padded(config).n_head - config.n_head


def padding_note(config: model.Config) -> str | None:
    """The line to print where an export holds heads of zeros; None elsewhere."""
    added = padded_heads(config)
    if not added:
        return None
    return (
        f"each layer's {config.n_head} heads are written as {config.n_head + added}, "
        f"{added} of them zeros: stock transformers needs n_embd = n_head x head width"
    )


def pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`array` with zeros at the end of each axis that `shape` has longer."""
    if array.shape == shape:
        return array
    missing = [(0, w - n) for n, w in zip(array.shape, shape, strict=True)]
    return np.pad(array, missing)
