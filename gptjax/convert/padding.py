"""Removed heads and neurons on export: zeros in their place.

Where a family's stock models have no width of heads but `n_embd / n_head`, a model with
fewer heads than that is written with heads of zeros: their queries, keys and values are
0, so they gather 0, and their rows of the output projection are 0 too. Where they have
no width of MLPs but `4 n_embd`, fewer neurons are made up alike.

A model may also be one that no stock model computes, however it is filled up.
"""

import dataclasses

import numpy as np

from gptjax import errors, model
from gptjax.convert import families


def padded(config: model.Config) -> model.Config:
    """The config with as many heads and neurons as the family's must have: mostly
    `config` itself.

    Raises:
      UserError: there is no such one, as `problem` says.
    """
    told = problem(config)
    if told is not None:
        raise errors.UserError(f"{told}; keep the model as a gptjax folder")
    neurons = None if _has_own_neurons(config) else config.n_inner
    config = dataclasses.replace(config, n_inner=neurons)
    heads = _stock_heads(config)
    assert heads is not None
    if heads == config.n_head:
        return config
    return dataclasses.replace(
        config,
        n_head=heads,
        n_kv_head=heads // config.queries,
        head_dim=config.head_width,
    )


def problem(config: model.Config) -> str | None:
    """Why zeros cannot make a stock model of it; None where they can.

    That is: a width of heads that does not divide `n_embd`, or more heads or neurons
    than there may be.
    """
    if _has_own_neurons(config) and config.mlp_width > 4 * config.n_embd:
        return (
            f"{config.n_inner} neurons are more than 4 n_embd, {4 * config.n_embd}, "
            "which is what stock transformers gives the family"
        )
    if _stock_heads(config) is None:
        return (
            f"{config.n_head} heads of width {config.head_width} cannot be made up to "
            f"n_embd {config.n_embd} with heads of zeros, so stock transformers cannot "
            "load them"
        )
    return None


def _has_own_neurons(config: model.Config) -> bool:
    """Whether a width of MLPs is given that the family has no field for."""
    fields = families.FAMILIES[config.family].fields.values()
    return config.n_inner is not None and "n_inner" not in fields


def _stock_heads(config: model.Config) -> int | None:
    """The fewest heads with these that a stock model may have; None for none."""
    family = families.FAMILIES[config.family]
    if config.head_dim is None:
        return config.n_head
    if family.has_head_width:
        if not family.divides_width:
            return config.n_head
        more = range(config.n_head, config.n_embd + 1, config.queries)
        return next((heads for heads in more if config.n_embd % heads == 0), None)
    heads, rest = divmod(config.n_embd, config.head_dim)
    if rest or heads < config.n_head or heads % config.queries:
        return None
    return heads


def is_padded(config: model.Config) -> bool:
    """Whether a Hugging Face folder is filled up with zeros: what is read from it is
    larger than the model that was written."""
    return problem(config) is None and padded(config) != config


def is_stock(config: model.Config) -> bool:
    """Whether stock transformers has a model that computes what this one does."""
    classes = families.FAMILIES[config.family].classifiers
    return problem(config) is None and all(
        each.per_token in classes for each in config.classifiers
    )


def is_whole(config: model.Config) -> bool:
    """Whether a Hugging Face folder holds the model as it is."""
    return is_stock(config) and not is_padded(config)


def padding_note(config: model.Config) -> str | None:
    """The line to print where an export holds zeros in place of heads or neurons; None
    elsewhere."""
    if not is_padded(config):
        return None
    whole = padded(config)
    family = families.FAMILIES[config.family]
    needed = "n_embd = n_head x head width"
    if family.has_head_width:
        needed = "n_embd to be a multiple of n_head"
    notes = [
        f"each layer's {own} {what} are written as {there}, {there - own} of them "
        f"zeros: stock transformers needs {why}"
        for what, own, there, why in (
            ("heads", config.n_head, whole.n_head, needed),
            ("neurons", config.mlp_width, whole.mlp_width, "4 n_embd neurons"),
        )
        if there > own
    ]
    return "; ".join(notes)


def pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`array` with zeros at the end of each axis that `shape` has longer."""
    if array.shape == shape:
        return array
    missing = [(0, w - n) for n, w in zip(array.shape, shape, strict=True)]
    return np.pad(array, missing)
