"""Params spread over two processes, in and out."""

import os
import socket
import subprocess
import sys

import pytest

from gptjax import convert

PROCESS = """
import sys, jax
port, rank, source, out = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
from gptjax import convert, sharding
mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2)
split = lambda shapes: sharding.param_shardings(mesh, shapes)
config, params = convert.load(source, shardings=split)
assert not params["blocks"]["mlp"]["up"]["kernel"].is_fully_addressable
convert.save_native(f"{out}/native", config, params, like=source)
config, params = convert.load(f"{out}/native", shardings=split)
convert.save(f"{out}/hf", config, params, like=f"{out}/native")
"""


@pytest.mark.slow
def test_two_processes_write_what_one_reads(tmp_path):
    """Each holds half of the weights; one file must hold all of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    source = convert.resolve("packaged")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(rank), source, tmp_path],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, complaint = process.communicate(timeout=120)
            assert process.returncode == 0, complaint
    finally:
        for process in processes:
            process.kill()
    written = (tmp_path / "hf" / "model.safetensors").read_bytes()
    convert.save(tmp_path / "one", *convert.load(source))
    assert written == (tmp_path / "one" / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "native", "one"}
