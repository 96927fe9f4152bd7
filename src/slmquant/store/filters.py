"""Filters of records, as commands have them, and as SQL."""

from __future__ import annotations

from typing import TypedDict

from slmquant.store.record import Status


class Filters(TypedDict, total=False):
    """What records must have; None for anything."""

    model: str | None
    method: str | None
    scheme: str | None
    status: Status | None


def condition(filters: Filters, latest: int | None = None) -> tuple[str, tuple[str | int, ...]]:
    """The SQL condition of filters, and its arguments; with `latest`, of only so many that were finished last."""
    given = {column: str(value) for column, value in filters.items() if value is not None}
    where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
    if latest is None:
        return where, tuple(given.values())
    last = f"SELECT cell_id FROM records WHERE {where} ORDER BY finished_at DESC, cell_id DESC LIMIT ?"
    return f"cell_id IN ({last})", (*given.values(), latest)
