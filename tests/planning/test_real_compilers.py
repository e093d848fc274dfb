"""Large models, compiled by the compilers of the machines that they would train on."""

import pathlib

import pytest

from gptjax import config
from gptjax.planning import compiling, planner

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

pytestmark = pytest.mark.slow


def plan(path, topology, overrides=(), **kwargs):
    """The plan, or a skip where the compiler is not installed."""
    platform = "cuda" if topology.startswith("h100") else "tpu"
    lacking = compiling.missing(platform)
    if lacking is not None:
        pytest.skip(lacking)
    return planner.plan(config.load(CONFIGS / path, overrides), topology, **kwargs)


def check(step, planned):
    """Fits, knows all its loops, and splits the state over the devices."""
    assert step.fits
    assert step.figures["unknown_loops"] == 0
    devices = planned.topology.devices
    # Weights and two moments in float32, split and not copied.
    state = step.memory["params"] + step.memory["moments"]
    assert state < 1.1 * 12 * planned.parameters / devices * step.mesh["data"]
    assert 1 <= step.figures["flops"] / step.model_flops < 1.5
    assert 0.05 < step.roofline.mfu <= 1


def test_gpt2_xl_trains_on_v5e_4x4():
    """Out of memory shows only on the chip otherwise, after the slice was paid for."""
    planned = plan("gpt2_xl_v5e.yaml", "v5e:4x4")
    assert planned.parameters == pytest.approx(1.56e9, rel=0.01)
    check(planned.step, planned)


@pytest.mark.very_slow
def test_gpt2_xl_trains_on_eight_h100():
    """The same recipe, by the compiler for NVIDIA's GPUs."""
    planned = plan("gpt2_xl_v5e.yaml", "h100x8", ["training.batch_sequences=64"])
    check(planned.step, planned)


@pytest.mark.very_slow
def test_gpt3_13b_trains_on_v5p_4x4x4():
    """Weights, moments and gradients take 16 bytes each: 200 GB."""
    planned = plan("gpt3_13b_v5p.yaml", "v5p:4x4x4")
    check(planned.step, planned)


@pytest.mark.very_slow
def test_gpt3_175b_trains_on_the_slice_that_the_planner_chose():
    """Nobody says how many chips it takes, or how they are to be used."""
    planned = plan("gpt3_175b.yaml", "v5p", compiles=1, tell=print)
    assert planned.suggestions
    # The weights, moments and gradients alone take 28 of its chips.
    assert planned.topology.devices >= 32
    for _, step in planned.suggestions:
        check(step, planned)


def test_what_is_too_large_is_refused_by_the_compiler():
    """GPT-2 XL needs 25 GB on one chip of 16."""
    planned = plan("gpt2_xl_v5e.yaml", "v5e:1x1", searches=False)
    assert not planned.fits
    assert "needs" in planned.problem
