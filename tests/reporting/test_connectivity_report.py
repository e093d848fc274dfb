"""What is said of the line between two models follows from its losses."""

import json

import numpy as np
import pytest

from gptjax import evaluation, reporting
from gptjax.reporting import connectivity


def _of(*losses):
    positions = tuple(np.linspace(0, 1, len(losses)).tolist())
    return evaluation.Connectivity(
        positions=positions, losses=losses, protocol="a text, context 8"
    )


@pytest.mark.parametrize(
    ("losses", "barrier", "verdict"),
    [
        ((3.0, 2.9, 3.01), "0.0050", "None to speak of: the two lie in one valley"),
        ((3.0, 3.5, 3.2), "0.4000", "The two lie in different valleys"),
        ((3.0, 3.5, 4.0), "0.5000", "nothing on the way is higher than both"),
    ],
)
def test_the_verdict_is_that_of_the_losses(losses, barrier, verdict):
    """A slope from a good model down to a bad one is no hill between valleys."""
    said = connectivity.sentence(_of(*losses))
    assert said.startswith(f"Barrier: {barrier} nats a token")
    assert verdict in said


def test_a_report_has_the_table_the_picture_and_the_figures(tmp_path):
    """Whoever reads the page must find what was drawn and by which protocol."""
    found = _of(3.0, 3.5, 3.2)
    page = reporting.write_connectivity(tmp_path / "line", found)
    text = page.read_text()
    assert "| 0.5 | 3.5000 | 33.12 |" in text
    assert "a text, context 8" in text
    assert "![loss on the way](connectivity.png)" in text
    assert page.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    assert page.with_suffix(".svg").exists()
    figures = json.loads(page.with_suffix(".json").read_text())
    assert figures["barrier"] == pytest.approx(0.4)
    assert figures["losses"] == [3.0, 3.5, 3.2]
    assert figures["positions"] == [0, 0.5, 1]


def test_the_terminal_shows_the_way_and_the_verdict(capsys):
    """The number alone would not say where on the way it was met."""
    reporting.print_connectivity(_of(3.0, 3.5, 3.2))
    shown = capsys.readouterr().out
    for text in ("33.12", "at a = 0.5", "different valleys", "a text, context 8"):
        assert text in shown
