"""The time of day that never goes back: rows stay in the order in which they ended, though the clock be set."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_TICK = timedelta(microseconds=1)
_last = datetime.min.replace(tzinfo=timezone.utc)


def now() -> datetime:
    """The time in UTC, later than at any call before; it stands all but still where the clock was set back."""
    global _last
    _last = max(datetime.now(timezone.utc), _last + _TICK)
    return _last
