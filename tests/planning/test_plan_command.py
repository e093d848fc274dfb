"""`gptjax plan`: what it prints, what it writes, and how it ends."""

import json
import pathlib

import pytest

from gptjax import cli, config, errors
from gptjax.planning import child, compiling, planner, terminal, topologies

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "gpt2_xl_v5e.yaml"
ARGUMENTS = [str(CONFIG), "--topology"]


def figures(temporaries=10**9, **changed):
    """What a compiler says of a step, made up."""
    return {
        "device_kind": "TPU v5 lite",
        "mesh": {"data": 1, "fsdp": 16, "context": 1, "tensor": 1},
        "compile_seconds": 1.0,
        "held": {"params": 400, "moments": 800, "masks": 16, "batch": 32},
        "arguments": 1300,
        "outputs": 5,
        "temporaries": temporaries,
        "program": 7,
        "flops": 25_000_000_000_000,
        "memory_traffic": 200_000_000_000,
        "collectives": {
            "all-gather": {
                "count": 98,
                "sent_bytes": 5.8e9,
                "network_bytes": 0.0,
            }
        },
        "unknown_loops": 0,
        "silent_kernels": 0,
        **changed,
    }


@pytest.fixture
def compiler(monkeypatch):
    """A function (figures or an exception) that stands in for all compilers."""

    def install(*results):
        left = list(results)

        def compile_step(settings, model_config, topology):
            result = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(compiling, "compile_step", compile_step)

    return install


def test_what_fits_ends_with_0_and_tells_memory_time_and_cost(compiler, capsys):
    """The table is what a user decides by."""
    compiler(figures())
    assert cli.main(["plan", *ARGUMENTS, "v5e:4x4"]) == 0
    told = capsys.readouterr().out
    for line in (
        "gpt2-xl: 1,557,611,200 weights on v5e:4x4, 16 devices",
        "gradients and temporaries      1.0 GB",
        "1.0 GB of 17.2 GB: fits",
        "all-gather                     5.8 GB sent, 98 times",
        # 200 GB at 819 GB/s.
        "at least 244 ms a step, bound by memory",
        "device-hours for 20 steps",
        "arXiv:2204.02311",
    ):
        assert line in told, told


def test_what_does_not_fit_ends_with_3_and_suggests_what_does(compiler, capsys):
    """A job script asks by the exit code; its author wants to know what to change."""
    compiler(figures(temporaries=20 * 10**9), figures(temporaries=10**9))
    assert cli.main(["plan", *ARGUMENTS, "v5e:4x4"]) == 3
    told = capsys.readouterr().out
    assert "does not fit" in told
    assert "fits: mesh.data=" in told
    assert "training.remat=" in told


def test_a_compiler_that_runs_out_of_memory_is_a_no(compiler, capsys):
    """TPUs' compiler refuses instead of telling a size."""
    compiler(compiling.OutOfMemory(20 * 10**9, 16 * 10**9))
    command = ["plan", *ARGUMENTS, "v5e:4x4", "--no-search", "--json"]
    assert cli.main(command) == 3
    told = json.loads(capsys.readouterr().out)
    assert not told["fits"]
    assert told["step"] is None
    assert "needs 20.0 GB of a device, which has 16.0 GB" in told["problem"]


@pytest.mark.parametrize(
    "said",
    [
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
        "21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.",
        "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required "
        "for HLO temporaries (21.50G) exceeds available HBM (15.75G). HLO module: x.",
    ],
)
def test_the_words_of_a_compiler_out_of_memory_are_understood(said):
    """How much is missing tells whether to halve the batch or to look for chips."""
    stderr = f"jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: {said}"
    with pytest.raises(compiling.OutOfMemory) as refused:
        compiling._fail(stderr, topologies.parse("v5e:4x4"))
    assert refused.value.used == int(21.5 * 2**30)
    assert refused.value.limit == int(15.75 * 2**30)


def test_a_wrong_topology_ends_with_1_and_one_line(capsys):
    """Not with the compiler's stack trace."""
    assert cli.main(["plan", *ARGUMENTS, "v5x:4x4"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("gptjax: --topology v5x:4x4: unknown; known are v4:2x2x2")
    assert told.count("\n") == 1


def test_a_missing_compiler_names_the_extra(monkeypatch, capsys):
    """The extras are many, and one of them is right."""
    monkeypatch.setattr(compiling, "_is_there", lambda module: False)
    assert cli.main(["plan", *ARGUMENTS, "h100x8", "mesh.fsdp=8"]) == 1
    assert "pip install 'gptjax[plan]'" in capsys.readouterr().err
    assert cli.main(["plan", *ARGUMENTS, "v5e:4x4"]) == 1
    assert "pip install 'gptjax[tpu]'" in capsys.readouterr().err


def test_a_plan_is_written_with_its_picture(compiler, tmp_path):
    """The JSON holds all that is printed."""
    compiler(figures(temporaries=20 * 10**9), figures())
    assert cli.main(["plan", *ARGUMENTS, "v5e:4x4", "--out", str(tmp_path)]) == 3
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["step"]["memory"]["gradients and temporaries"] == 20 * 10**9
    assert written["suggestions"][0]["fits"]
    assert written["suggestions"][0]["bound"] == "memory"
    assert (tmp_path / "plan.png").stat().st_size > 1000
    svg = (tmp_path / "plan.svg").read_text()
    assert "gradients and temporaries" in svg
    assert "usable" in svg


def test_a_machine_without_a_size_is_the_smallest_that_fits(compiler):
    """4 chips of 16 GB do not hold 25 GB of GPT-2 XL and its optimizer, 8 might."""
    compiler(compiling.OutOfMemory(None, None), figures())
    settings = config.load(CONFIG)
    planned = planner.plan(settings, "v5e", compiles=1)
    assert planned.suggestions
    assert planned.topology.name in ("v5e:2x4", "v5e:4x4")
    assert planned.fits


def test_a_cpu_promises_no_time(compiler):
    """There is no figure to promise it by."""
    compiler(figures())
    settings = config.load(CONFIG)
    planned = planner.plan(settings, "cpu:16")
    assert planned.fits
    told = "\n".join(terminal.lines(planned))
    assert "a step, bound by" not in told
    assert "device-hours" not in told


def test_shapes_of_known_models_need_no_weights_and_no_network():
    """The papers' tables, to the digits that they give."""
    of_gpt3 = {
        "small": 125e6,
        "medium": 350e6,
        "large": 760e6,
        "xl": 1.3e9,
        "2.7b": 2.7e9,
        "6.7b": 6.7e9,
        "13b": 13e9,
        "175b": 175e9,
    }
    weights_of = {f"gpt3-{name}": weights for name, weights in of_gpt3.items()}
    for name, weights in ({"gpt2": 124e6} | weights_of).items():
        settings = config.load(None, {"model": name, "out": "none"})
        maker = planner._Maker(
            settings,
            planner.shapes.resolve(name),
            topologies.parse("v5p:4x4x4"),
        )
        assert maker.plan(None, None).parameters == pytest.approx(weights, rel=0.02), (
            name
        )


def test_a_config_json_alone_is_a_model(tmp_path, capsys):
    """A plan needs a shape, as a folder or as a file; nothing else is a model."""
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2}')
    for name in (path, tmp_path):
        assert planner.shapes.resolve(str(name)).n_layer == 2
    path.write_text("[]")
    assert cli.main(["plan", *ARGUMENTS, "cpu:8", f"model={path}"]) == 1
    assert "holds no JSON object" in capsys.readouterr().err


@pytest.fixture
def two_devices(tmp_path):
    """A small run on two fake devices."""
    shape = tmp_path / "config.json"
    shape.write_text('{"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 256}')
    return config.load(
        None,
        {
            "model": str(shape),
            "out": str(tmp_path / "run"),
            "mesh.fsdp": 2,
            "data.sequence_tokens": 8,
            "training.batch_sequences": 2,
        },
    )


def test_the_figures_are_those_of_the_compiled_step(two_devices):
    """Compiled for CPUs, in this process, which has some."""
    gpt = planner.shapes.resolve(two_devices.model)
    found = child.compile_step(two_devices, gpt, topologies.parse("cpu:2"))
    kernels = 2 * 12 * 16**2 + (256 + 1024) * 16
    # Half of the weights, as float32, and twice as much of Adam's moments; every
    # device has the vectors whole.
    vectors = 2 * 13 * 16 + 2 * 16
    assert found["mesh"]["fsdp"] == 2
    assert found["held"]["params"] == 4 * (kernels // 2 + vectors)
    assert found["held"]["moments"] == pytest.approx(2 * found["held"]["params"], abs=8)
    assert found["arguments"] >= sum(found["held"].values())
    assert "all-gather" in found["collectives"]
    assert found["unknown_loops"] == 0


@pytest.mark.slow
def test_a_plan_for_cpus_is_made_in_a_process_of_its_own(two_devices):
    """The whole way: the environment, the request, the answer; and a refusal."""
    planned = planner.plan(two_devices, "cpu:2")
    assert planned.fits
    assert planned.step.mesh["fsdp"] == 2
    assert planned.step.figures["flops"] > 0
    with pytest.raises(errors.UserError, match="does not use all 3 devices"):
        planner.plan(two_devices, "cpu:3")
