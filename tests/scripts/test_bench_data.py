"""The benchmark of the data pipeline runs, and says what it should."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/bench_data.py"


@pytest.mark.slow
def test_the_data_keep_up_with_the_step(tmp_path):
    """A step that waits for its batch wastes the device; ten times is ample."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    out = tmp_path / "data.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--out", out],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    for low, middle, high in [
        *found["tokens_per_second"].values(),
        *found["ratios"].values(),
    ]:
        assert 0 < low <= middle <= high
    assert found["ratios"]["cache / training step"][1] > 10
    assert "cache / mapped file" in done.stdout
