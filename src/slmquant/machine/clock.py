"""A clock that never goes back, so that rows keep their order even if the system clock is changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_TICK = timedelta(microseconds=1)
_last = datetime.min.replace(tzinfo=timezone.utc)


def now() -> datetime:
    """The time in UTC, later than in any earlier call; nearly constant for a while after the clock was set back."""
    global _last
    _last = max(datetime.now(timezone.utc), _last + _TICK)
    return _last
