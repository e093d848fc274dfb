"""A run's cost counts all of its rounds and controls."""

import pytest

from gptjax import config
from gptjax.planning import lengths

ITERATIVE = {"pruning.sparsities": [0.3, 0.5], "training.steps": 100}


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({"training.steps": 100}, 100),
        # The dense round and two more.
        (ITERATIVE, 300),
        # Each of the two with two controls.
        ({**ITERATIVE, "pruning.controls": ["random", "reinit"]}, 700),
        # Rewound to step 20, they train the 80 after it.
        ({**ITERATIVE, "pruning.rewind.to": "step:20"}, 260),
        # The dense model does not train.
        (
            {
                "pruning.schedule": "one-shot",
                "pruning.sparsities": [0.5],
                "training.steps": 100,
            },
            100,
        ),
    ],
)
def test_all_rounds_and_controls_count(overrides, steps):
    """A lottery-ticket run trains the model many times over."""
    settings = config.load(None, {"model": "gpt2", "out": "none", **overrides})
    assert lengths.steps(settings) == steps
    assert lengths.schedule_steps(settings) == 100
