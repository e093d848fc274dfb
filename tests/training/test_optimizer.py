"""Every optimizer that is offered keeps zeros zero, and refuses what it cannot do."""

import inspect

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from gptjax import config, errors, masks
from gptjax.training import optimizer

PARAMS = {
    "a": {"kernel": jnp.linspace(-1.0, 1.0, 48).reshape(2, 4, 6), "bias": jnp.ones(4)}
}


def make(name, **settings):
    decays = {"weight_decay", "weight_decay_rate"}
    has_decay = decays & set(inspect.signature(getattr(optax, name)).parameters)
    settings = config.Optimizer(
        name=name, learning_rate=0.1, weight_decay=0.1 if has_decay else 0.0, **settings
    )
    schedule = optimizer.make_schedule(settings, steps=10)
    return optimizer.make_optimizer(settings, schedule, PARAMS)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
@hypothesis.settings(max_examples=5, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 1000), dtype=st.sampled_from(["float32", "bfloat16"])
)
def test_pruned_weights_stay_exactly_zero_with_every_optimizer(name, seed, dtype):
    """Momentum from before the pruning and weight decay both move dead weights."""
    chain = make(name)

    @jax.jit
    def update(params, state, grads, weight_masks):
        updates, state = chain.update(grads, state, params, masks=weight_masks)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype), PARAMS)
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    dense = {"a": {"kernel": jnp.ones((2, 4, 6), bool), "bias": np.True_}}
    pruned = {
        "a": {"kernel": jnp.asarray(rng.random((2, 4, 6)) < 0.4), "bias": np.True_}
    }
    state = chain.init(params)
    for _ in range(2):
        params, state = update(params, state, grads, dense)
    params = masks.apply(params, pruned)
    for _ in range(3):
        params, state = update(params, state, grads, pruned)
    kernel, mask = np.asarray(params["a"]["kernel"]), np.asarray(pruned["a"]["kernel"])
    assert (kernel[~mask] == 0).all()
    assert (kernel[mask] != 0).any()
    assert np.isfinite(kernel.astype(np.float32)).all()


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_can_start_late_in_its_schedule(name):
    """Setting a counter that an optimizer lacks would be an error at round 1."""
    chain = make(name)
    late = optimizer.start_schedule_at(chain.init(PARAMS), 7)
    counters = optax.tree_utils.tree_get_all_with_path(late, "count")
    schedules = [
        int(count)
        for path, count in counters
        if path[-1].tuple_name == "ScaleByScheduleState"
    ]
    assert schedules == [7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamm"}, "optimizer.name: 'adamm' is not one of"),
        ({"name": "sgd", "weight_decay": 0.1}, "optimizer.weight_decay: sgd has none"),
        ({"options": {"beta2": 0.9}}, "optimizer.options.beta2: adamw takes b1, b2"),
        ({"warmup_steps": 10}, "optimizer.warmup_steps: 10 do not end within 10 steps"),
    ],
)
def test_settings_that_do_not_fit_are_errors(settings, message):
    """optax would raise a TypeError about a function nobody called by name."""
    built = config.Optimizer(**settings)

    def make_both():
        schedule = optimizer.make_schedule(built, steps=10)
        return optimizer.make_optimizer(built, schedule, PARAMS)

    with pytest.raises(errors.UserError, match=message):
        make_both()
