"""The picture of a search's keys."""

import types

import pytest

from gptjax import config
from gptjax.tuning import pictures, spaces
from gptjax.tuning import results as results_lib


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_every_key_has_a_panel_and_nothing_else_has(count, tmp_path, monkeypatch):
    """Rows of three would else end with frames around nothing."""
    space = config.Space(low=0.5, high=2.0)
    keys = tuple(f"key.{number}" for number in range(count))
    parameters = [spaces.Parameter(key, space, False, (0.5, 2.0), 1.0) for key in keys]
    row = {
        "trial": 0,
        "state": "done",
        "value": 50.0,
        "values": dict.fromkeys(keys, 1.0),
        "protocol": "a text",
    }
    results = results_lib.Results("perplexity", keys, [row], row, row)
    seen = []
    monkeypatch.setattr(pictures, "_say_protocol", lambda drawn, _: seen.append(drawn))
    study = types.SimpleNamespace(parameters=parameters)
    pictures._slices(study, results, tmp_path / "slices")
    framed = [plot.get_xlabel() for plot in seen[0].axes if plot.axison]
    assert framed == list(keys)
