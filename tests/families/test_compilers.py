"""Every family's training step, compiled by the compiler of a TPU slice."""

import dataclasses
import json

import pytest
import stock

from gptjax import config
from gptjax.convert import hf_config
from gptjax.planning import compiling, planner


@pytest.mark.slow
@pytest.mark.very_slow  # the planner's tests compile a GPT-2
@pytest.mark.parametrize("family", stock.FAMILIES)
def test_a_family_trains_on_v5e_4x4(family, tmp_path):
    """Rules that no mesh accepts, or kernels that a field rules out, show there."""
    if (lacking := compiling.missing("tpu")) is not None:
        pytest.skip(lacking)
    own = {"model_type": family, **stock.regular(family, layers=4)}
    shape = hf_config.parse(own, where=family)
    shape = dataclasses.replace(
        shape,
        vocab_size=32000,
        n_positions=1024,
        n_embd=1024,
        n_inner=shape.n_inner and 4096,
        n_head=16,
        n_kv_head=shape.n_kv_head and 8,
        head_dim=64,
        windows=shape.windows and tuple(width and 256 for width in shape.windows),
    )
    values = hf_config.to_values(shape, dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(values))
    settings = config.load(
        None,
        {
            "model": str(tmp_path),
            "out": "none",
            "data.sequence_tokens": 1024,
            "mesh.data": 1,
            "mesh.fsdp": 8,
            "mesh.tensor": 2,
            "training.batch_sequences": 16,
            "training.compute_dtype": "bfloat16",
        },
    )
    planned = planner.plan(settings, "v5e:4x4", searches=False)
    assert planned.fits, planned.problem
    assert planned.step.figures["unknown_loops"] == 0
