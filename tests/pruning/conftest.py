"""What tests of pruning runs share."""

import pytest

from gptjax.pruning import savings


@pytest.fixture
def unmeasured(monkeypatch):
    """Runs that do not time steps and decoding at their end, which compiles much."""
    monkeypatch.setattr(savings, "measure", lambda *args: {})
