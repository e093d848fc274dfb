"""Learning rates that are an argument of the step, and no part of it."""

import jax
import numpy as np
import optax
import pytest

from gptjax import config, training
from gptjax.planning import programs
from gptjax.training import rates


@pytest.mark.parametrize("warmup", [0, 3])
def test_rates_are_those_of_the_schedule_and_the_last_one_holds(warmup):
    """An index beyond the table would wrap, or give NaN."""
    settings = config.Optimizer(
        learning_rate=0.5, warmup_steps=warmup, schedule="linear", final_fraction=0.1
    )
    found = training.make_schedule(settings, steps=8)
    for step in range(12):
        rate = 0.5 * step / 3
        if step >= warmup:
            done = min((step - warmup) / (8 - warmup), 1)
            rate = 0.5 * (1 - 0.9 * done)
        assert float(found(step)) == pytest.approx(rate, rel=1e-6)


def test_a_table_that_is_given_takes_the_place_of_the_own():
    own = rates.Rates(optax.constant_schedule(1.0), steps=3)

    @jax.jit
    def look_up(table, step):
        with own.given(table):
            return own(step)

    table = np.array([5, 6, 7, 8], np.float32)
    assert [float(look_up(table, step)) for step in (0, 2, 9)] == [5, 7, 8]
    assert float(own(2)) == 1


def test_another_learning_rate_is_the_same_program(tiny_settings, tmp_path):
    """Trials of a search differ in it: each would compile for itself."""

    def program(**overrides):
        settings = tiny_settings(tmp_path, **overrides)
        trainer = training.prepare(settings).trainer(schedule_steps=6)
        return trainer.train_step.lower(*programs.arguments(trainer)).as_text()

    first = program()
    changed = {"optimizer.learning_rate": 0.5, "optimizer.warmup_steps": 3}
    assert program(**changed, **{"optimizer.schedule": "linear"}) == first
    assert program(**{"optimizer.weight_decay": 0.5}) != first
