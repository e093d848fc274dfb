"""Which sequences calibration reads."""

import types

import numpy as np
import pytest

from gptjax import config, errors
from gptjax.pruning import calibration


def cut(tokens=100, *, n_positions=16, seed=0, **changes):
    """`calibration.cut` of a text whose ids are their places."""
    text = types.SimpleNamespace(ids=np.arange(tokens, dtype=np.uint16), name="a.txt")
    text = type("Text", (), {**vars(text), "__len__": lambda self: tokens})()
    settings = config.load(
        None,
        {
            "model": "packaged",
            "out": "runs/none",
            "seed": seed,
            "data.sequence_tokens": 10,
            "calibration.sequences": 4,
            **changes,
        },
    )
    return calibration.cut(settings, text, n_positions=n_positions)


def test_the_first_windows_are_the_texts_beginning():
    """The pinned protocol of every comparison."""
    got = cut(**{"calibration.order": "first"})
    np.testing.assert_array_equal(got, np.arange(40).reshape(4, 10))
    assert got.dtype == np.int32
    got = cut(**{"calibration.order": "first", "calibration.sequence_tokens": 3})
    np.testing.assert_array_equal(got, np.arange(12).reshape(4, 3))


def test_random_windows_are_the_seeds_and_none_comes_twice():
    """Drawn with repetition, a text read twice would count twice."""
    got = cut(**{"calibration.sequences": 10})
    assert sorted(got[:, 0]) == list(range(0, 100, 10))
    np.testing.assert_array_equal(got, cut(**{"calibration.sequences": 10}))
    assert (got != cut(seed=1, **{"calibration.sequences": 10})).any()


def test_bad_input_is_told_in_a_line():
    """The length never silently becomes the model's, nor the text's."""
    with pytest.raises(
        errors.UserError,
        match=r"a.txt: 39 tokens, but calibration.sequences 4 of 10 tokens need 40",
    ):
        cut(39)
    with pytest.raises(
        errors.UserError, match=r"data.sequence_tokens: 10 is more than"
    ):
        cut(n_positions=9)
    with pytest.raises(errors.UserError, match=r"calibration.sequence_tokens: 17 is "):
        cut(**{"calibration.sequence_tokens": 17})
