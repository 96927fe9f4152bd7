"""What benchmarks compute beside the package is the package's own arithmetic."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from slmquant.analysis.serial import series_mean

_BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(_BENCHMARKS)  # benchmarks import each other by name
    return importlib.import_module("reach")


@pytest.mark.parametrize("positions", [(0, 1, 2, 3, 4, 5), (3, 21, 39, 57, 75, 93)])
def test_errors_of_files_side_by_side_know_where_their_windows_lie(
    reach: ModuleType, positions: tuple[int, ...]
) -> None:
    """Windows that are far apart say more than neighbours do."""
    theirs, ours = (3.1, 2.9, 3.4, 3.0, 3.3, 2.8), (3.0, 2.7, 3.35, 2.8, 3.1, 2.75)
    readings = {"text": {"a": reach.Reading(positions, theirs, theirs), "b": reach.Reading(positions, ours, ours)}}
    expected = series_mean([b - a for a, b in zip(theirs, ours, strict=True)], positions=positions)

    (line,) = reach.differences(readings, ["b"], ["a"])

    span = expected.interval()
    assert span is not None
    assert f"{expected.mean:+.4f} [{span.low:+.4f}, {span.high:+.4f}] nats over 6 windows of text" in line
    error = series_mean(theirs, positions=positions).stderr
    assert readings["text"]["a"].divergence.endswith(f"{error:.4f}")
