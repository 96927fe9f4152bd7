"""Fixtures of searches: the made-up model and data of runs, with all work in this process."""

from __future__ import annotations

import pytest

from slmquant.measuring import search, trials
from tests.runs.conftest import alone, data, here, model

__all__ = ["alone", "at_once", "data", "model"]


@pytest.fixture
def at_once(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `alone`, for searches, too."""
    del alone
    for module in (search, trials):
        monkeypatch.setattr(module, "run_isolated", here)
