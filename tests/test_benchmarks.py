"""What benchmarks compute beside the package is the package's own arithmetic."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from slmquant.analysis.serial import series_mean
from slmquant.store.record import Phase, Repeat
from tests import invented

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


def test_what_is_shared_is_no_cells_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(_BENCHMARKS)
    again = Repeat(seconds=2, cpu_s=2, added_rss_bytes=None, noise=None)
    phases = (
        Phase(name="load", seconds=1, cpu_s=1),
        Phase(name="capture", seconds=50, cpu_s=50, shared=True),
        Phase(name="quantize", seconds=2, cpu_s=2, repeated=(again, again, again)),
        Phase(name="evaluate", seconds=4, cpu_s=4),
    )
    record = invented.record("gptq", "W8A8").model_copy(update={"phases": phases})

    own_s = importlib.import_module("shared_work").own_work_s

    assert own_s(record) == 1 + 3 * 2 + 4 + 2 * 1
    assert own_s(record.model_copy(update={"phases": phases[::3]})) == 1 + 4
