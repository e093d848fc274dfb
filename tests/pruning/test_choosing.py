"""Choosing masks: what is told before it starts."""

import pytest

from gptjax import training
from gptjax.pruning import choosing, plan
from gptjax.pruning.context import Context


@pytest.mark.parametrize(
    "how",
    [
        {"pruning.criterion": "taylor"},
        {"pruning.criterion": "wanda", "pruning.scope": "global"},
        {"pruning.allocation": "owl"},
    ],
    ids=str,
)
def test_what_reads_the_text_for_all_weights_tells_its_memory_first(
    how, tiny_settings, tmp_path, capsys
):
    """Whoever runs out of memory an hour later could have known."""
    overrides = {"pruning.schedule": "one-shot", "pruning.sparsities": [0.5], **how}
    settings = tiny_settings(tmp_path, **overrides, **{"calibration.sequences": 8})
    prepared = training.prepare(settings)
    trainer = prepared.trainer(schedule_steps=1)
    context = Context(prepared, trainer, settings.pruning, tmp_path)
    capsys.readouterr()
    choosing._at_once(context, plan.rounds(settings)[1], prepared.load_params())
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith("calibration will take about ") for line in told] == [True]
