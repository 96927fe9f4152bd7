"""The JSON texts that a store keeps: records, and the values of per-item answers."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from slmquant.errors import StoreError
from slmquant.store.record import SCHEMA_VERSION, ItemOutcome, Record


def read_record(store: Path, version: object, text: object) -> Record:
    """The record in two columns of a store: its schema and its JSON.

    Raises:
        StoreError: The columns are damaged, or a newer slmquant wrote them.
    """
    if not isinstance(version, int) or not isinstance(text, str):  # SQLite columns may hold values of any type
        raise StoreError(f"{store} contains a record with damaged columns; restore the file from a backup")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{store} contains a record of schema {version}; this slmquant reads up to {SCHEMA_VERSION}: update "
            "slmquant"
        )
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{store} contains an unreadable record: {error.errors()[0]['msg']}") from error


def outcome_json(outcome: ItemOutcome) -> str:
    """JSON of an item's values by name, with its text as the key `text`; older stores need no migration."""
    return json.dumps(outcome.values if outcome.text is None else {**outcome.values, "text": outcome.text})


def read_outcome(task: str, item: str, document: str) -> ItemOutcome:
    """The answer to an item, from what `outcome_json` wrote."""
    values = json.loads(document)
    text = values.pop("text", None)
    return ItemOutcome.model_validate({"task": task, "item": item, "values": values, "text": text})


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the collection of garbage, which takes more than half of the time while many records are built."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
