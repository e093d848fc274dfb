"""The README's picture of a report is what a browser shows of one."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "screenshots.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason="there is no Chromium or Chrome"
)
def test_a_report_is_taken_by_light_and_in_the_dark(tmp_path):
    """A page that follows no preference is white at night."""
    run = tmp_path / "run"
    run.mkdir()
    summary = {"model": "m", "end": {"perplexity": 2.0, "protocol": "p"}}
    (run / "summary.json").write_text(json.dumps(summary))
    means = []
    for more in ((), ("--dark",)):
        out = tmp_path / "taken.png"
        command = [sys.executable, SCRIPT, run, "--out", out, "--height", "300"]
        subprocess.run([*command, *more], check=True)
        image = Image.open(out)
        assert image.size == (1100, 300)
        means.append(np.asarray(image.convert("L")).mean())
    light, dark = means
    assert light > 200
    assert dark < 60
