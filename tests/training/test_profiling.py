"""Traces of a run's steps, its use of the machine, and what is told of both."""

import ctypes
import json
import time
import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from gptjax import chips, cli, config, errors, model, training
from gptjax.training import profiling, trace, utilization


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if "loss" in r]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A compilation cache that is empty, and keeps everything."""
    changed = {
        "jax_compilation_cache_dir": str(tmp_path / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_trace_tells_what_ran_how_often_and_how_long(own_cache, tmp_path):
    """Products that fill the time must be what the table says they were.

    A program from the compilation cache, here the second one, has another number in
    its events than elsewhere in the trace. Nothing but products is in the loop: XLA
    as the tests set it copies slices as slowly as it multiplies.
    """
    x, w = jnp.full((1024, 1024), 1e-3), jnp.full((1024, 1024), 1e-3)
    for folder in (tmp_path / "compiled", tmp_path / "cached"):

        @jax.jit
        def products(x, w):
            return jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)

        products(x, w).block_until_ready()
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for _ in range(3):
                products(x, w).block_until_ready()
            seconds = time.perf_counter() - began
        (path,) = folder.rglob("*.xplane.pb")
        operations = trace.operations(path)
        first = operations[0]
        assert first.source.endswith("dot_general")
        assert first.program == "jit_products"
        assert first.count == 15
        assert 0.5 * seconds < first.seconds < seconds
        assert operations == sorted(operations, key=lambda each: -each.seconds)
        assert not [each for each in operations if each.name.startswith("while")]


def _plane(lines):
    """A plane of a profile from (name, start, duration, facts) of events by line."""
    return types.SimpleNamespace(
        lines=[
            types.SimpleNamespace(
                name=line,
                events=[
                    types.SimpleNamespace(
                        name=name, start_ns=start, duration_ns=duration, stats=facts
                    )
                    for name, start, duration, facts in events
                ],
            )
            for line, events in lines.items()
        ]
    )


def test_an_operation_lasts_until_the_threads_that_do_it_end():
    """On CPU its own event is only the handing-over; another thread marks the end."""
    dot = {"hlo_op": "dot.1", "hlo_module": "jit_f", "program_id": "3", "_p": "7"}
    plane = _plane(
        {
            "main": [
                ("dot.1", 100, 5, dot.items()),
                ("ThreadpoolListener::Record", 101, 0, ()),
                ("dot.1", 600, 5, dot.items()),
                ("add.2", 800, 30, {**dot, "hlo_op": "add.2", "_p": "8"}.items()),
            ],
            "pool": [
                ("end: dot.1", 350, 1, {"_c": "7"}.items()),
                ("end: dot.1", 700, 1, {"_c": "7"}.items()),
            ],
        }
    )
    assert list(trace._executions(plane)) == [
        (("jit_f", "3", "dot.1"), 250),
        (("jit_f", "3", "dot.1"), 100),
        (("jit_f", "3", "add.2"), 30),
    ]


def test_of_a_tpu_the_line_of_operations_is_read():
    """Its other lines hold the same time again, as steps and as modules."""
    fusion = ("%fusion.3 = f32[8]{0} fusion(...)", 10, 40, {"program_id": 5}.items())
    plane = _plane({"XLA Modules": [("jit_f", 0, 90, ())], "XLA Ops": [fusion]})
    assert list(trace._executions(plane)) == [(("", "5", "fusion.3"), 40)]


def test_a_run_traces_the_steps_asked_for(tiny_settings, tmp_path, capsys):
    """Counted as in metrics.jsonl: each step's operations run once on every device."""
    settings = tiny_settings(tmp_path, **{"training.profile.steps": "3..4"})
    training.train(settings)
    done = json.loads((tmp_path / "profile" / "operations.json").read_text())
    assert (done["phase"], done["steps"]) == ("train", [3, 4])
    steps = [each for each in done["operations"] if each["program"] == "jit_step"]
    assert {each["count"] % (2 * 8) for each in steps} == {0}
    said = capsys.readouterr().out
    assert "profile of train, steps 3 to 4" in said
    view = next(line for line in said.splitlines() if "perfetto" in line).split()[1]
    assert view.endswith(".trace.json.gz")
    assert (tmp_path / "profile").rglob(view)
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_stopped_while_it_traces_can_trace_again(
    tiny_settings, tmp_path, stop_at, capsys
):
    """A profiler that is left on refuses the next trace of the process."""
    stop_at(3, 5)
    with pytest.raises(errors.Stopped):
        training.train(tiny_settings(tmp_path, **{"training.profile.steps": "3..5"}))
    assert not (tmp_path / "profile" / "operations.json").exists()
    with pytest.raises(errors.Stopped):
        training.train(tiny_settings(tmp_path, **{"training.profile.steps": "5..5"}))
    training.train(tiny_settings(tmp_path, **{"training.profile.steps": "4..5"}))
    assert (
        "train: no profile, for it did not train steps 4..5" in capsys.readouterr().out
    )
    done = json.loads((tmp_path / "profile" / "operations.json").read_text())
    assert done["steps"] == [5, 5]


def test_the_first_phase_is_traced_unless_another_is_named(tmp_path):
    """Every round of a pruning run trains a step 3; one trace is what was asked for."""

    def made(phase, steps="3..3", wanted=None, is_main=True):
        profile = config.Profile(steps=steps, phase=wanted)
        return profiling.Profiler(profile, tmp_path, phase=phase, is_main=is_main)

    assert made("00").is_due(3)
    assert not made("00").is_due(2)
    assert not made("00", is_main=False).is_due(3)
    assert not made("00", steps=None).is_due(3)
    assert not made("00", wanted="02").is_due(3)
    assert made("02", wanted="02").is_due(3)
    profiler = made("00")
    profiler.start(3)
    jnp.ones(3).sum().block_until_ready()
    profiler.stop(3)
    assert not made("01").is_due(3)
    assert made("01", steps="3..4").is_due(3)


def test_the_option_becomes_overrides_and_bad_ones_are_told(tmp_path, capsys):
    """`02` is a phase and no number; a typo must not train for hours untraced."""
    given = config.profiling("steps=10..12,phase=02")
    run = config.load(None, ["model=a", "out=b", *given])
    assert run.training.profile == config.Profile(steps="10..12", phase="02")
    assert config.profiling(None) == []
    for option in ("10..12", "step=3..4", "steps=", "steps=3..4,"):
        with pytest.raises(errors.UserError, match=r"--profile: .* write steps=10"):
            config.profiling(option)
    for steps in ("12..10", "0..1", "3"):
        with pytest.raises(errors.UserError, match=r"write FIRST\.\.LAST"):
            config.load(None, ["model=a", "out=b", *config.profiling(f"steps={steps}")])
    with pytest.raises(errors.UserError, match=r"9\.\.11 ends after training.steps 10"):
        config.load(
            None,
            ["model=a", "out=b", "training.steps=10", "training.profile.steps=9..11"],
        )
    config_file = tmp_path / "c.yaml"
    config_file.write_text("model: a\nout: b\n")
    assert cli.main(["train", str(config_file), "--profile", "steps=5..4"]) == 1
    assert "training.profile.steps: got '5..4'" in capsys.readouterr().err


@pytest.mark.slow
def test_metrics_tell_utilization_where_the_peak_is_known(
    tiny_settings, tmp_path, monkeypatch
):
    """On an unknown device the share of a guessed peak would look measured."""
    training.train(tiny_settings(tmp_path / "a", **{"training.steps": 2}))
    for record in records(tmp_path / "a"):
        assert "mfu" not in record
        assert record["process_bytes"] > 50e6
    chip = chips.find("TPU v4")
    monkeypatch.setattr(chips, "find", lambda kind: chip)
    training.train(tiny_settings(tmp_path / "b", **{"training.steps": 2}))
    # 2048 x 8 + 16 x 8 embeddings, 2 blocks of 12 x 8 x 8 weights and 13 x 8 biases
    # and scales, and the last norm's 16; 2 layers x 8 wide x 16 tokens.
    flops = 6 * (16512 + 2 * (768 + 104) + 16) + 12 * 2 * 8 * 16
    for record in records(tmp_path / "b"):
        expected = record["tokens_per_second"] * flops / (8 * 275e12)
        assert record["mfu"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc's allocator"
)
def test_freed_memory_between_pieces_in_use_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    pieces = [libc.malloc(16 * 1024) for _ in range(10_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 16 * 1024)
    for piece in pieces[:-1]:
        libc.free(piece)
    before = utilization.of_process("VmRSS")
    utilization.return_freed()
    assert utilization.of_process("VmRSS") < before - 100e6
    libc.free(pieces[-1])


def test_the_flops_of_the_formula_are_about_those_that_xla_counts():
    """6 N takes every weight for a matrix; 12 L D T must add attention's own share."""
    gpt = model.Config(
        n_layer=1, n_embd=64, n_head=2, vocab_size=512, n_positions=256
    ).without_dropout()
    params = model.init(jax.random.key(0), gpt)
    tokens = jnp.zeros((2, 256), jnp.int32)

    def loss(params):
        return (model.apply(gpt, params, tokens) ** 2).sum()

    cost = jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()
    # The rows of positions are looked up, not multiplied; in a real model's N they
    # are few.
    weights = sum(leaf.size for leaf in jax.tree.leaves(params)) - 256 * 64
    formula = utilization.flops_per_token(gpt, parameters=weights, sequence_tokens=256)
    assert formula * tokens.size == pytest.approx(cost["flops"], rel=0.06)
