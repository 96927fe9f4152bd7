"""A clock that is set back puts no row before one that ended earlier."""

from datetime import datetime, timedelta, timezone

import pytest

from slmquant.machine import clock


def test_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_last", clock._last)
    first = clock.now()

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: timezone | None = None) -> datetime:  # type: ignore[override]
            del tz
            return first - timedelta(hours=3)

    monkeypatch.setattr(clock, "datetime", SetBack)
    second, third = clock.now(), clock.now()

    assert first < second < third < first + timedelta(seconds=1)
