"""The step's benchmark, shortened."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "bench_step.py"


@pytest.mark.slow
def test_steps_are_timed_beside_pytorchs(tmp_path):
    """Figures, a loss that is the same task's for both, and the ratio last."""
    out = tmp_path / "step.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--out", out],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("tokens/s gptjax / torch: ")
    found = json.loads(out.read_text())["steps"]["packaged"]
    losses = found["first_loss"]
    assert losses["gptjax"] == pytest.approx(losses["torch"], abs=0.05)
    assert min(found["peak_bytes"].values()) > 50e6  # weights, gradients, moments
