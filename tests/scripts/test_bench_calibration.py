"""The memory that calibration takes beside the weights, as the kernel counts it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/bench_calibration.py"
XL_BYTES = 6_230_444_800
"""Of GPT-2 XL's 1,557,611,200 weights in float32."""

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(),
    reason="the kernel does not tell a process's high-water mark",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion", [pytest.param("wanda", marks=pytest.mark.very_slow), "sparsegpt"]
)
def test_two_blocks_of_xl_take_no_more_than_a_fifth_of_xl_beside_their_weights(
    criterion, tmp_path
):
    """What is needed beside the weights does not depend on how many blocks there are:
    so a fifth of the whole model is what any number of them may take."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, SCRIPT, "--criterion", criterion, "--layers", "2"]
    done = subprocess.run(
        [*command, "--folder", tmp_path / "calibration"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pruned"] == 0.5
    assert found["peak_bytes"] - found["weights_bytes"] <= 0.2 * XL_BYTES
    assert done.stderr.startswith("calibration will take about ")
