"""What is said of models under noise follows from their figures on the same texts."""

import json

import numpy as np
import pytest

from gptjax import evaluation, reporting
from gptjax.reporting import robustness


def _of(key, dense, pruned, *, clean=(1.0, 1.5), f1=None):
    """Two models, typos at 0.1, a figure for each seed."""

    def figures(value):
        return {key: value, **({} if f1 is None else {"f1": f1})}

    return evaluation.Robustness(
        models=("runs/a/export", "runs/b/export"),
        noises=("typos",),
        rates=(0.1,),
        seeds=tuple(range(len(dense))),
        key=key,
        clean={
            f"runs/{name}/export": figures(value)
            for name, value in zip("ab", clean, strict=True)
        },
        noised={
            (f"runs/{name}/export", "typos", 0.1): tuple(map(figures, values))
            for name, values in (("a", dense), ("b", pruned))
        },
        protocol="a text, seeds 0 to 2",
    )


def test_models_are_held_against_each_other_seed_by_seed():
    """What seeds differ by must fall out: here all of it."""
    found = _of("bits_per_byte", (2.0, 2.4, 1.9), (2.6, 3.0, 2.5))
    cost = evaluation.Spread.of(found.cost("runs/b/export", "typos", 0.1))
    assert cost.mean == pytest.approx(1.2)
    assert cost.sd == pytest.approx(np.std([2.6, 3.0, 2.5], ddof=1))
    extra = evaluation.Spread.of(found.extra("runs/b/export", "typos", 0.1))
    assert extra == pytest.approx((0.1, 0.0))
    assert found.extra("runs/a/export", "typos", 0.1).tolist() == [0, 0, 0]
    behind = evaluation.Spread.of(found.behind("runs/b/export", "typos", 0.1))
    assert behind == pytest.approx((0.6, 0.0))
    assert found.cost("runs/b/export", "typos", 0.0).tolist() == [0]


@pytest.mark.parametrize(
    ("key", "dense", "pruned", "clean", "said"),
    [
        ("bits_per_byte", (2.0, 2.2), (2.6, 2.8), (1.0, 1.5), ": 0.100 ± 0.000 more."),
        ("bits_per_byte", (2.0, 2.2), (2.4, 2.6), (1.0, 1.5), ": 0.100 ± 0.000 less."),
        (
            "bits_per_byte",
            (2.0, 2.2),
            (2.5, 2.8),
            (1.0, 1.5),
            "0.050 ± 0.071 more, within two deviations of the seeds.",
        ),
        ("bits_per_byte", (2.0,), (2.6,), (1.0, 1.5), "runs/b 1.100: 0.100 more."),
        # Accuracy falls: 10 points and 25 of them are 15 more.
        ("accuracy", (0.8, 0.8), (0.6, 0.6), (0.9, 0.85), "15.00 ± 0.00 more."),
    ],
)
def test_the_verdict_is_that_of_the_figures(key, dense, pruned, clean, said):
    """More is worse, whether the figure rises or falls under noise."""
    lines = robustness.sentences(_of(key, dense, pruned, clean=clean))
    assert len(lines) == 1
    assert lines[0].startswith("Typos in 10 % of the words cost runs/a ")
    assert f"{said} runs/b is " in lines[0]
    scale = 100 if key == "accuracy" else 1
    gaps = [
        scale * abs(one - other)
        for one, other in (clean, (np.mean(dense), np.mean(pruned)))
    ]
    digits = 2 if key == "accuracy" else 3
    assert f" is {gaps[0]:.{digits}f} behind on the clean text" in lines[0]
    assert f"clean text, {gaps[1]:.{digits}f}" in lines[0]
    assert "ahead" not in lines[0]


def test_a_model_may_be_ahead_of_the_first():
    """A negative gap would read as its own opposite."""
    found = _of("accuracy", (0.5, 0.5), (0.6, 0.6), clean=(0.9, 0.85))
    said = "runs/b is 5.00 behind on the clean text, 10.00 ± 0.00 ahead on the noised"
    assert said in robustness.sentences(found)[0]


def test_a_report_has_the_table_the_picture_and_the_figures(tmp_path):
    """Whoever reads the page must find what was drawn and by which protocol."""
    found = _of("accuracy", (0.8, 0.7), (0.6, 0.55), clean=(0.9, 0.85), f1=0.5)
    page = reporting.write_robustness(tmp_path / "noise", found)
    text = page.read_text(encoding="utf-8")
    assert "| none | 0 % | runs/a | 90.00 % | 50.00 % | - | - |" in text
    assert "| none | 0 % | runs/b | 85.00 % | 50.00 % | - | 5.00 |" in text
    row = "| typos | 10 % | runs/b | 57.50 ± 3.54 % | 50.00 ± 0.00 % | 27.50 ± 3.54 |"
    assert f"{row} 17.50 ± 3.54 |" in text
    assert "runs/b is runs/b/export." in text
    assert "a text, seeds 0 to 2" in text
    assert "![accuracy against the rate of noise](robustness.png)" in text
    assert page.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    assert page.with_suffix(".svg").exists()
    figures = json.loads(page.with_suffix(".json").read_text())
    assert figures["clean"]["runs/b/export"]["accuracy"] == 0.85
    last = figures["noised"][-1]
    assert (last["model"], last["rate"]) == ("runs/b/export", 0.1)
    assert last["accuracy"]["mean"] == pytest.approx(0.575)
    assert [each["accuracy"] for each in last["by_seed"]] == [0.6, 0.55]


def test_the_terminal_shows_the_figures_and_the_verdict(capsys):
    """By which protocol, too: without it the figures mean nothing."""
    reporting.print_robustness(_of("bits_per_byte", (2.0, 2.2), (2.6, 2.8)))
    shown = capsys.readouterr().out
    for text in ("2.100 ± 0.141", "0.100 ± 0.000 more", "a text, seeds 0 to 2"):
        assert text in shown
