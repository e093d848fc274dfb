"""Params spread over two processes, in and out."""

import pytest

from gptjax import convert

PROCESS = """
source, out = sys.argv[1:]
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
def test_two_processes_write_what_one_reads(tmp_path, two_processes):
    """Each holds half of the weights; one file must hold all of them."""
    source = convert.resolve("packaged")
    two_processes(PROCESS, source, tmp_path)
    written = (tmp_path / "hf" / "model.safetensors").read_bytes()
    convert.save(tmp_path / "one", *convert.load(source))
    assert written == (tmp_path / "one" / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "native", "one"}
