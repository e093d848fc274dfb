"""Eight fake CPU devices, strict broadcasting, and a tiny model to run things on."""

import gc
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys

os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        # Tests compile much and compute little: a quarter of their time.
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# torch's threads wait by spinning, and take the cores from XLA's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keeps compiled programs between tests and runs: XLA takes most of the time."""
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Lets go of compiled programs before there are too many.

    Each is mapped into memory in several pieces, of which Linux grants a process 65,530
    (vm.max_map_count): after some 900 tests XLA ends it in the midst of a compilation.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory):
    """A function (out, **overrides) -> config.Run of a run that takes seconds.

    The model is one layer of random weights with the packaged tokenizer; the text is
    made up.
    """
    from gptjax import config, convert, model

    folder = tmp_path_factory.mktemp("tiny")
    gpt = model.Config(
        n_layer=2, n_embd=8, n_head=2, vocab_size=2048, n_positions=16, attn_pdrop=0.2
    )
    params = model.init(jax.random.key(0), gpt)
    convert.save(folder / "model", gpt, params, like=convert.resolve("packaged"))
    text = "".join(chr(97 + (7 * i * i + 3 * i) % 23) + " " for i in range(4000))
    (folder / "train.txt").write_text(text)
    (folder / "valid.txt").write_text(text[:600])

    def settings(out, **overrides):
        return config.load(
            None,
            {
                "model": str(folder / "model"),
                "out": str(out),
                "mesh.data": 1,
                "mesh.fsdp": 8,
                "data.train": str(folder / "train.txt"),
                "data.valid": str(folder / "valid.txt"),
                "data.sequence_tokens": 16,
                "data.cache_dir": str(folder / "cache"),
                "training.steps": 6,
                "training.log_every_steps": 1,
                "optimizer.learning_rate": 0.01,
                **overrides,
            },
        )

    return settings


@pytest.fixture(scope="session")
def llama_server():
    """The class of scripts/llama_server.py: llama.cpp with a GGUF file."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (xllamacpp)")
    path = pathlib.Path(__file__).parents[1] / "scripts" / "llama_server.py"
    spec = importlib.util.spec_from_file_location("llama_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Server


@pytest.fixture
def made_up_times(monkeypatch):
    """Runs whose nth model takes n seconds a step and to decode, the dense one 1."""
    from gptjax.pruning import timing

    def measure(trainer, variants):
        return {
            variant.name: {
                "step_seconds": float(number),
                "step_ratios": [float(number)],
                "decode_seconds": float(number),
                "decode_ratios": [float(number)],
            }
            for number, variant in enumerate(variants, 1)
        }

    monkeypatch.setattr(timing, "measure", measure)


@pytest.fixture
def stop_at(monkeypatch):
    """A function (steps) that makes runs behave as if SIGTERM came at such steps.

    Each (phase's) step stops a run once: started again, the run passes it.
    """
    from gptjax import training

    def install(*steps):
        left = list(steps)

        class Impatient(training.signals.StopRequest):
            def reached(self, step):
                if step not in left:
                    return False
                left.remove(step)
                self.signal = training.signals.signal.SIGTERM
                return True

        monkeypatch.setattr(training.signals, "StopRequest", Impatient)

    return install


_JOIN = """
import sys
port, rank, devices = sys.argv[1:4]
del sys.argv[1:4]
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
"""


@pytest.fixture
def two_processes():
    """A function (code, *arguments, devices=2) that runs code in two joined processes.

    `sys.argv[1:]` are the arguments there; each has so many devices. Returns what the
    two printed.
    """
    processes = []

    def run(code, *arguments, devices=2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        for rank in range(2):
            given = (str(each) for each in (port, rank, devices, *arguments))
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", _JOIN + code, *given],
                    env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        told = []
        for process in processes:
            said, complaint = process.communicate(timeout=300)
            assert process.returncode == 0, complaint
            told.append(said)
        return told

    yield run
    for process in processes:
        process.kill()
