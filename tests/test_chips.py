"""A device's name, as JAX spells it, finds its chip."""

import re

import pytest

from gptjax import chips


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("TPU7x", "TPU7x"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_device_kinds_name_their_chips(kind, name):
    """`TPU v5` is the p and `TPU v5 lite` the e: a prefix would take one for both."""
    assert chips.find(kind).name == name
    claims = [
        chip
        for chip in chips.CHIPS
        if any(re.fullmatch(each, kind) for each in chip.device_kinds)
    ]
    assert len(claims) == 1


def test_an_unknown_device_has_no_peak():
    """A utilisation of a guessed peak would be a guess that looks measured."""
    assert chips.find("cpu") is None
    assert chips.find("NVIDIA H100") is None
