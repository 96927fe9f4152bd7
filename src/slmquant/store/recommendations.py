"""Answers of `slmquant recommend`; an slmquant that does not know their table leaves it alone."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple


class KeptAnswer(NamedTuple):
    """An answer as it is stored.

    Attributes:
        id: Its id, a hash of its content.
        model: The model that it is about.
        content: Its content as JSON.
    """

    id: str
    model: str
    content: str


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table, unless the store has it."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS recommendations "
        "(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL, content TEXT NOT NULL)"
    )


def keep_answer(connection: sqlite3.Connection, answer: KeptAnswer) -> None:
    """Store an answer; one that was given before becomes the latest."""
    connection.execute("INSERT OR REPLACE INTO recommendations (id, model, content) VALUES (?, ?, ?)", answer)


def kept_answers(connection: sqlite3.Connection) -> list[KeptAnswer]:
    """All answers, in the order in which they were last given."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'recommendations'").fetchone()[0]:
        return []
    rows = connection.execute("SELECT id, model, content FROM recommendations ORDER BY number").fetchall()
    return [KeptAnswer(*row) for row in rows]
