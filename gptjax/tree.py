"""Slash paths of nested dicts and first-match rule tables over them.

One key, the slash path of a leaf (`blocks/mlp/up/kernel`), drives every table of
gptjax: sharding, weight decay, prunable weights, Hugging Face names.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gptjax import errors

Tree = Mapping[str, Any]
Rules = Sequence[tuple[str, Any]]


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of a nested dict by their slash paths, in sorted order of keys.

    Sorted order is also the order in which `jax.tree` visits a dict, so the two
    may be zipped.
    """
    flat = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            flat.update(
                {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
            )
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict whose slash paths are the keys of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: Tree, *rest: Tree) -> dict:
    """`function(path, leaf, *leaves_of_rest)` at every leaf, as a tree like `tree`.

    Raises:
      ValueError: if a tree of `rest` has other paths than `tree`.
    """
    flat, *flat_rest = [flatten(t) for t in (tree, *rest)]
    for other in flat_rest:
        if other.keys() != flat.keys():
            raise ValueError(
                f"trees differ in the paths {sorted(other.keys() ^ flat.keys())}"
            )
    return unflatten(
        {
            path: function(path, leaf, *(other[path] for other in flat_rest))
            for path, leaf in flat.items()
        }
    )


def covers(pattern: str, path: str) -> bool:
    """Whether a rule's regex matches the whole path."""
    return re.fullmatch(pattern, path) is not None


def match(rules: Rules, paths: Iterable[str], *, table: str) -> dict[str, Any]:
    """The value of the first rule whose regex matches the whole path, for every path.

    Args:
      rules: pairs of a regex, used with `re.fullmatch`, and any value.
      paths: slash paths of leaves.
      table: what the rules are called in an error message.

    Raises:
      UserError: a path that no rule covers, or a rule that covers no path: either
        is a misspelling that would otherwise pass in silence.
    """
    paths = list(paths)
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise errors.UserError(
                f"{table}: {pattern!r} is no regular expression: {error}"
            ) from error
        # A rule hidden behind an earlier one covers its leaves all the same: tables
        # end in a catch-all more often than not.
        if not any(covers(pattern, path) for path in paths):
            near = difflib.get_close_matches(pattern, paths, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise errors.UserError(
                f"{table}: the rule {pattern!r} covers no leaf{hint}"
            )
    values = {}
    for path in paths:
        matching = (value for pattern, value in rules if covers(pattern, path))
        try:
            values[path] = next(matching)
        except StopIteration:
            raise errors.UserError(
                f"{table}: no rule covers the leaf {path!r}"
            ) from None
    return values


def match_tree(rules: Rules, tree: Tree, *, table: str) -> dict[str, Any]:
    """`match` for the leaves of `tree`, as a tree like it."""
    return unflatten(match(rules, flatten(tree), table=table))
