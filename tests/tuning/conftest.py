"""What tests of searches share."""

import pytest

from gptjax.pruning import savings


@pytest.fixture
def search_settings(tiny_settings):
    """A function (out, **overrides) -> config.Run of a search of three trials."""

    def settings(out, **overrides):
        rate = {"low": 1e-4, "high": 0.1, "log": True}
        return tiny_settings(
            out,
            **{
                "tune": {"optimizer.learning_rate": rate},
                "search.trials": 3,
                "search.startup_trials": 1,
                "training.steps": 4,
                "training.evaluate_every_steps": 2,
                **overrides,
            },
        )

    return settings


@pytest.fixture
def unmeasured(monkeypatch):
    """Runs that do not time steps and decoding at their end, which compiles much."""
    monkeypatch.setattr(savings, "measure", lambda *args: {})
