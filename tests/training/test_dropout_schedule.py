"""Dropout rates that move as training goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import config, errors, model, training
from gptjax.model import dropout
from gptjax.training import step

SCHEDULE = config.DropoutSchedule(start=0.0, end=2.0, steps=8)


def test_the_scale_is_a_line_and_then_a_constant():
    scales = [float(step.dropout_scale(SCHEDULE, jnp.int32(n))) for n in (0, 2, 8, 20)]
    assert scales == [0.0, 0.5, 2.0, 2.0]
    assert step.dropout_scale(None, jnp.int32(3)) is None


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_entries_fall_at_the_scaled_rate(scale):
    """Of 200,000, with a deviation of at most 0.0011; those kept are grown."""
    count, rate = 200_000, 0.3
    key = dropout.Scaled(jax.random.key(0), jnp.float32(scale))
    found = np.asarray(jax.jit(lambda x: dropout.apply(rate, x, key))(jnp.ones(count)))
    assert abs((found == 0).mean() - rate * scale) < 0.0045
    np.testing.assert_allclose(found[found != 0], 1 / (1 - rate * scale), rtol=1e-6)


def test_a_scale_of_1_drops_what_no_schedule_drops():
    """The same entries fall, whichever way the rate comes."""
    key, x = jax.random.key(0), jnp.ones(10_000)
    plain = dropout.apply(0.25, x, key)
    np.testing.assert_allclose(
        dropout.apply(0.25, x, dropout.Scaled(key, jnp.float32(1))), plain, rtol=1e-6
    )


def test_the_model_scales_all_its_rates():
    """Of embeddings, attention and residuals: at scale 2, what rates twice as high
    drop; at 0, nothing.
    """
    rates = {"resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3}
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 6}
    gpt = model.Config(**shape, **rates)
    twice = model.Config(**shape, **{name: 2 * rate for name, rate in rates.items()})
    params = model.init(jax.random.key(1), gpt)
    tokens_BT = jnp.arange(12).reshape(2, 6) % 11
    key = jax.random.key(2)

    def loss(params, config, key):
        logits = model.apply(config, params, tokens_BT, dropout_key=key)
        return jnp.square(logits).sum()

    for scale, wanted, wanted_key in ((2.0, twice, key), (0.0, gpt, None)):
        given = model.scaled(key, jnp.float32(scale))
        slopes = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        got = slopes(params, gpt, given)
        expected = slopes(params, wanted, wanted_key)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            got,
            expected,
        )


@pytest.mark.slow
def test_a_run_compiles_its_step_once(tiny_settings, tmp_path):
    """The rate is an argument; as a constant it would compile at every step."""
    run = tiny_settings(
        tmp_path / "run", **{"training.dropout_schedule": {"start": 0, "steps": 3}}
    )
    with training.run_folder(run):
        prepared = training.prepare(run)
        trainer = prepared.trainer(schedule_steps=6)
        training.fit(
            trainer,
            training.Phase(name="train", start=0, end=6),
            load_params=prepared.load_params,
            weight_masks=trainer.dense_masks(),
        )
        assert trainer.compilations == 1
        trainer.log.close()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"training.dropout": False}, "dropout_schedule: dropout is off"),
        ({"training.dropout_schedule.end": 5.0}, "end: 5.0 times the model's rate 0.2"),
        ({"training.dropout_schedule.steps": 0}, "dropout_schedule.steps"),
    ],
)
def test_what_cannot_be_is_refused(tiny_settings, tmp_path, overrides, wanted):
    schedule = {"training.dropout_schedule.steps": 3, **overrides}
    with pytest.raises(errors.UserError, match=wanted):
        training.train(tiny_settings(tmp_path / "run", **schedule))
