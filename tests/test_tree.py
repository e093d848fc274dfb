"""Slash paths and rule tables."""

import pytest

from gptjax import errors, tree

NESTED = {"b": {"y": 2, "x": {"z": 1}}, "a": 0}


def test_flatten_visits_leaves_in_the_order_of_jax_tree():
    """Code zips the two; a dict in insertion order would pair wrong leaves."""
    import jax

    assert list(tree.flatten(NESTED)) == ["a", "b/x/z", "b/y"]
    assert list(tree.flatten(NESTED).values()) == jax.tree.leaves(NESTED)


def test_unflatten_undoes_flatten():
    """A path split at the wrong slash would nest otherwise."""
    assert tree.unflatten(tree.flatten(NESTED)) == NESTED


def test_map_with_path_refuses_trees_of_other_paths():
    """Zipping by position alone would pair leaves of different names."""
    with pytest.raises(ValueError, match="b/y"):
        tree.map_with_path(lambda path, *leaves: leaves, {"b": {"y": 1}}, {"b": {}})


def test_the_first_matching_rule_wins_and_matches_the_whole_path():
    """`re.match` instead of `fullmatch` would let `a` cover `a/b`."""
    rules = (("a", 1), ("a/b", 2), (".*", 3))
    assert tree.match(rules, ["a", "a/b", "c"], table="t") == {"a": 1, "a/b": 2, "c": 3}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("a", 1),), "t: no rule covers the leaf 'b'"),
        ((("kernl", 1), (".*", 2)), "t: the rule 'kernl' covers no leaf"),
        ((("[", 1), (".*", 2)), r"t: '\[' is no regular expression"),
    ],
)
def test_a_rule_table_that_does_not_fit_is_an_error(rules, message):
    """A misspelled rule would otherwise fall through to the catch-all in silence."""
    with pytest.raises(errors.UserError, match=message):
        tree.match(rules, ["a", "b"], table="t")
