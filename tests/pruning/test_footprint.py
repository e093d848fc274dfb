"""Seconds and peak memory of a piece of work."""

import pathlib
import time

import numpy as np
import pytest

from gptjax.pruning import footprint


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)
def test_the_peak_is_of_the_work_alone():
    """The high-water mark of a process never falls by itself."""
    earlier = np.ones(30_000_000)  # 240 MB that an unreset mark would still show
    del earlier
    with footprint.measured() as cost:
        array = np.ones(10_000_000)
        time.sleep(0.02)
        del array
    assert 70e6 < cost.peak_bytes < 160e6
    assert cost.seconds >= 0.02
