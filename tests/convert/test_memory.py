"""Host memory while a checkpoint is read and written, as the kernel counts it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from gptjax import model
from gptjax.convert import hf_config, names, safetensors_file

# In a process of its own: the high-water mark of this one is past.
MEASURE = """
import json, pathlib, sys
import jax
from gptjax import convert, model, sharding

def high_water():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

def reset():
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return high_water()

def split(shapes):
    return sharding.param_shardings(sharding.make_mesh(fsdp=-1, data=1), shapes)

def convert_small():
    # A first conversion takes modules and compilers, whatever the model's size.
    small = model.Config(n_layer=2, n_embd=8, n_head=2, n_positions=8, vocab_size=40)
    params = model.init(jax.random.key(0), small)
    shardings = split(model.shapes(small))
    convert.save(small_folder, small, jax.device_put(params, shardings))
    convert.load(small_folder, shardings=split)

source, target, small_folder, devices = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
convert_small()
before = reset()
config, params = convert.load(source, shardings=split)
loaded = high_water() - before
before = reset()
convert.save(target, config, params)
saved = high_water() - before
print(json.dumps({"loaded": loaded, "saved": saved}))
"""

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(),
    reason="the kernel does not tell a process's high-water mark",
)


def write_checkpoint(folder: pathlib.Path, config: model.Config) -> list[int]:
    """A made-up float32 checkpoint; the sizes of its tensors in bytes."""
    order = names.in_hf_order(config)
    entries = safetensors_file.in_file_order(
        [
            safetensors_file.Entry(name, np.dtype(np.float32), part.hf_shape)
            for name, _, part, _ in order
        ]
    )
    rng = np.random.default_rng(0)
    values = hf_config.to_values(config, dtype=np.float32)
    hf_config.write_json(folder / "config.json", values)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(safetensors_file.header(entries))
        for entry in entries:
            file.write(rng.standard_normal(entry.shape, np.float32).data)
    return [entry.nbytes for entry in entries]


def convert_elsewhere(source, target, devices: int) -> dict[str, int]:
    """Bytes above the baseline at the peak of loading and of saving."""
    small = target.with_name("small")
    command = [sys.executable, "-c", MEASURE, source, target, small, str(devices)]
    # Without the eight devices of this process.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            # A stacked leaf is three times as large as any tensor of the file.
            model.Config(n_layer=36, n_embd=256, n_head=4, vocab_size=12000),
            id="128MB",
        ),
        pytest.param(model.Config(), id="498MB", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_checkpoint_is_never_on_the_host_twice(tmp_path, config, devices):
    """Pages of the mapped file, a stacked leaf beside its layers, or a gathered copy
    that an array keeps would each show as another part of the model."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    sizes = write_checkpoint(source, config)
    peak = convert_elsewhere(source, target, devices)
    assert peak["loaded"] <= sum(sizes) + max(sizes)
    # The params are there already: a tensor or a part of one comes on top, and what
    # the programs that cut it out of its leaf take, some 35 MB however large they are.
    assert peak["saved"] <= max(sizes) + 48 * 2**20
    written = (target / "model.safetensors").read_bytes()
    assert written == (source / "model.safetensors").read_bytes()
