"""A model of the same family from which weights were cut instead of zeroed."""

import dataclasses
from typing import Any

from gptjax import masks, model, tree


def config_like(
    config: model.Config, weight_masks: masks.Masks, *, multiple_of: int = 1
) -> model.Config:
    """A config with as many fewer heads and MLP neurons as weights are pruned.

    For a sparsity s the MLP keeps max(1, round(F (1 - s))) neurons and attention
    max(1, round(G (1 - s))) heads of keys of the same width, with the heads of queries
    that read them: the attention's weights shrink with its heads and the MLP's with
    its neurons, so that about the fraction s of them is gone. Only what is prunable is
    cut: an attention or MLP without masks stays whole.

    Args:
      weight_masks: masks of params of `config`.
      multiple_of: what both counts are rounded to multiples of, for a mesh that
        splits them.

    Returns:
      The config; `config` itself where nothing is to be cut.
    """
    keep = 1 - masks.sparsity(weight_masks)
    prunable = [
        path
        for path, mask in tree.flatten(weight_masks).items()
        if masks.is_prunable(mask)
    ]

    def cut(size: int) -> int:
        return multiple_of * max(1, round(size * keep / multiple_of))

    changes: dict[str, Any] = {}
    if any(path.startswith("blocks/mlp/") for path in prunable):
        changes["n_inner"] = cut(config.mlp_width)
    if any(path.startswith("blocks/attn/") for path in prunable):
        groups = cut(config.kv_heads)
        changes["n_head"], changes["n_kv_head"] = groups * config.queries, groups
        changes["head_dim"] = config.head_width
    smaller = dataclasses.replace(config, **changes)
    same = ("mlp_width", "n_head")
    is_whole = all(getattr(smaller, name) == getattr(config, name) for name in same)
    return config if is_whole else smaller
