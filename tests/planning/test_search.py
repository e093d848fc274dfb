"""The search tries what divides, the best first, and stops where enough is found."""

import subprocess
import types

import pytest

from gptjax import config, errors
from gptjax.planning import compiling, search, shapes, topologies


def settings(**overrides):
    return config.load(
        None,
        {
            "model": "gpt2-xl",
            "out": "none",
            "data.sequence_tokens": 1024,
            "training.batch_sequences": 32,
            "training.compute_dtype": "bfloat16",
            **overrides,
        },
    )


def ranked(topology="v5e:4x4", **overrides):
    return search.candidates(
        settings(**overrides), shapes.resolve("gpt2-xl"), topologies.parse(topology)
    )


def test_candidates_divide_the_model_and_the_batch():
    """Whatever does not divide would be refused after a minute of compiling."""
    found = ranked()
    assert found
    for each in found:
        axes, training = each.axes, each.settings.training
        assert axes["data"] * axes["fsdp"] * axes["tensor"] == 16
        # 25 heads and a width of 1600.
        assert axes["tensor"] == 1
        part = training.batch_sequences // training.accumulation_steps
        assert part % (axes["data"] * axes["fsdp"]) == 0
        assert training.batch_sequences == 32


def test_candidates_that_fit_come_first_and_faster_ones_before_slower():
    """The compiler judges few of them, so the order decides."""
    found = ranked()
    limit = topologies.parse("v5e:4x4").usable_bytes
    fits = [each.estimate.bytes <= limit for each in found]
    assert fits == sorted(fits, reverse=True)
    times = [e.estimate.roofline.step for e, ok in zip(found, fits, strict=True) if ok]
    assert times == sorted(times)
    # Recomputing costs time, and memory is what it saves.
    by_remat = {
        e.settings.training.remat: e
        for e in reversed(found)
        if e.axes["fsdp"] == 16 and e.settings.training.accumulation_steps == 1
    }
    fast, small = by_remat["matmuls"].estimate, by_remat["full"].estimate
    assert fast.roofline.step < small.roofline.step
    assert fast.bytes > small.bytes


def test_copies_span_the_network_and_nothing_else_does():
    """Weights gathered over a data-centre network would take most of the step."""
    found = ranked("v5e:4x4,slices=2", **{"training.batch_sequences": 64})
    assert found
    assert all(each.axes["data"] % 2 == 0 for each in found)


def judged(fits, seconds):
    return types.SimpleNamespace(fits=fits, used=10**9, step_seconds=seconds)


def test_the_search_stops_at_two_that_fit_and_keeps_the_fastest_first():
    """Every compilation takes a minute or more."""
    seconds = iter([3.0, 2.0, 1.0])
    told = []
    found = search.search(
        settings(),
        shapes.resolve("gpt2-xl"),
        topologies.parse("v5e:4x4"),
        compiles=10,
        judge=lambda _: judged(True, next(seconds)),
        tell=told.append,
    )
    assert [step.step_seconds for _, step in found] == [2.0, 3.0]
    assert len(told) == 5  # how many there are, and two lines for each


def test_a_mesh_that_the_compiler_fails_on_is_passed_over():
    """It takes one of the compilations, or a search of failures would not end."""
    results = [errors.UserError("no such mesh"), judged(True, 1.0)]

    def judge(_):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    found = search.search(
        settings(),
        shapes.resolve("gpt2-xl"),
        topologies.parse("v5e:4x4"),
        compiles=2,
        judge=judge,
        tell=lambda line: None,
    )
    assert [step.step_seconds for _, step in found] == [1.0]


def test_a_compiler_that_was_killed_ends_the_search(monkeypatch):
    """It was taken for a mesh that does not fit, and a larger machine was advised."""
    monkeypatch.setattr(
        compiling.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], -9, "", ""),
    )
    model_config, topology = shapes.resolve("gpt2"), topologies.parse("cpu:2")
    with pytest.raises(errors.UserError, match="killed by SIGKILL; it may need more"):
        search.search(
            settings(),
            model_config,
            topology,
            compiles=2,
            judge=lambda s: compiling.compile_step(s, model_config, topology),
            tell=lambda line: None,
        )


@pytest.mark.parametrize("refuses", [True, False])
def test_what_does_not_fit_rules_out_what_needs_more(refuses):
    """The compiler refuses, or compiles what is too large: both mean no."""
    tried = []

    def judge(candidate):
        tried.append(candidate)
        if refuses:
            raise compiling.OutOfMemory(2, 1)
        return judged(False, 1.0)

    found = search.search(
        settings(),
        shapes.resolve("gpt2-xl"),
        topologies.parse("v5e:4x4"),
        compiles=4,
        judge=judge,
        tell=lambda line: None,
    )
    assert found == []
    assert 1 < len(tried) <= 4
    sizes = {tuple(each.overrides()): each.estimate.bytes for each in ranked()}
    needed = [
        next(
            s for c, s in zip(ranked(), sizes.values(), strict=True) if c.settings == t
        )
        for t in tried
    ]
    assert needed == sorted(needed, reverse=True)
