"""What is being stored when Ctrl-C comes is stored; benches that are interrupted are in tests/faults."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from slmquant.interruption import install
from slmquant.machine.clock import now
from slmquant.machine.process import Failure
from slmquant.places import Places
from slmquant.runs.rows import Decision, Rows
from slmquant.store import Record, Store
from slmquant.store.record import ItemOutcome
from tests import invented

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def store_slowly(path: Path, telling: Connection, seconds: float) -> None:
    """Store a row, which takes a while, in a process of its own; then do something else."""
    put = Store.put

    def slow(store: Store, record: Record, items: Iterable[ItemOutcome] = ()) -> None:
        telling.send("writing")
        time.sleep(seconds)
        put(store, record, items)

    Store.put = slow  # type: ignore[method-assign, assignment]
    install()
    with Store(path) as store:
        rows = Rows(store, Places(), lambda event: None, 1)
        rows.put(invented.spec("rtn", "W4A8"), Failure("failed", "it did"), Decision("float32"), now())
        time.sleep(600)


@pytest.mark.parametrize(("signals", "stored"), [(1, 1), (2, 0)])
def test_a_row_that_is_being_stored_is_stored_unless_one_insists(signals: int, stored: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # a new interpreter would import for seconds
    told, telling = context.Pipe(duplex=False)
    process = context.Process(target=store_slowly, args=(tmp_path / "s.sqlite", telling, 3 if signals == 1 else 600))
    process.start()
    try:
        assert told.poll(60) and told.recv() == "writing"
        for _ in range(signals):
            os.kill(process.pid or 0, signal.SIGINT)
            time.sleep(0.5)
        process.join(60)
        assert process.exitcode
    finally:
        process.kill()

    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        assert len(store.records()) == stored
