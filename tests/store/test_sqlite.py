"""The store keeps what was put, whole, whoever else looks and whenever it is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slmquant.errors import StoreError, UnknownNameError
from slmquant.store import Store, default_store_path, migrations
from slmquant.store.record import ItemOutcome, Record
from slmquant.store.sqlite import begun
from tests import invented


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "store.sqlite"


def test_a_record_survives_the_round_trip(path: Path) -> None:
    record = invented.benchmark()[4]
    with Store(path) as store:
        store.put(record)

    with Store(path, read_only=True) as store:
        assert store.get(record.cell_id) == record
        assert store.records() == [record]


def test_items_come_back_in_their_order(path: Path) -> None:
    record = invented.benchmark()[1]
    given = [ItemOutcome(task=invented.ARC, item=str(i), values={"acc": i % 2}) for i in (10, 9, 2)]
    with Store(path) as store:
        store.put(record, [*given, ItemOutcome(task="piqa", item="0", values={"acc": 1})])

        assert store.items(record.cell_id, invented.ARC) == given
        assert len(store.items(record.cell_id)) == 4
        assert store.items("0" * 16) == []


def test_what_a_model_wrote_is_kept_beside_its_values(path: Path) -> None:
    record = invented.benchmark()[1]
    items = [
        ItemOutcome(task="generation", item="story", values={"ended": 1.0}, text='Once, \n"twice".'),
        ItemOutcome(task="generation", item="list", values={"ended": 0.0}, text=""),
        ItemOutcome(task="piqa", item="0", values={"acc": 1.0}),
    ]
    with Store(path) as store:
        store.put(record, items)
        assert store.items(record.cell_id) == items


def test_a_second_put_of_a_cell_replaces_record_and_items(path: Path) -> None:
    failed = invented.record("rtn", "W8A8", status="failed", reason="first try")
    with Store(path) as store:
        store.put(failed, [ItemOutcome(task="piqa", item="0", values={"acc": 1})])
        store.put(invented.record("rtn", "W8A8"))

        assert [r.status for r in store.records()] == ["ok"]
        assert store.items(failed.cell_id) == []


def test_a_put_that_fails_leaves_what_was_there(path: Path) -> None:
    record = invented.record("rtn", "W8A8")
    twice = [ItemOutcome(task="piqa", item="0", values={"acc": 1})] * 2
    with Store(path) as store:
        store.put(record, twice[:1])
        with pytest.raises(StoreError, match="UNIQUE"):
            store.put(invented.record("rtn", "W8A8", status="failed", reason="no"), twice)

        assert store.records() == [record]
        assert store.items(record.cell_id) == twice[:1]


@pytest.mark.parametrize(
    ("status", "skip"),
    [("ok", True), ("refused", True), ("failed", False), ("timeout", False), ("out_of_memory", False)],
)
def test_only_what_would_end_the_same_is_finished(path: Path, status: str, skip: bool) -> None:
    record = invented.record("rtn", "W8A8").model_copy(update={"status": status, "reason": "why"})
    with Store(path) as store:
        assert not store.finished(record.cell_id)
        store.put(record)
        assert store.finished(record.cell_id) is skip


def test_every_filter_must_match(path: Path) -> None:
    with Store(path) as store:
        for record in invented.benchmark():
            store.put(record)

        assert len(store.records()) == 13
        assert {r.spec.scheme for r in store.records(method="gptq", status="ok")} == {
            "W8A8",
            "W4A8",
            "W4A16g64",
            "W3A16g64",
        }
        assert [r.status for r in store.records(method="gptq", scheme="W2A16g64")] == ["failed"]
        assert store.records(model="another") == []


def test_the_latest_are_the_last_of_those_that_match(path: Path) -> None:
    with Store(path) as store:
        for record in reversed(invented.benchmark()):
            store.put(record)

        ends = [record.finished_at for record in store.records()]
        assert ends == sorted(ends) and store.records(4) == store.records()[-4:]
        assert store.records(2, method="gptq") == store.records(method="gptq")[-2:]
        assert store.records(99) == store.records()
        assert store.count() == 13 and store.count(method="gptq", status="ok") == 4
        assert store.names("method") == {"none", "rtn", "gptq", "smoothquant"}


def test_a_cell_is_found_by_prefix_and_by_label(path: Path) -> None:
    record = invented.record("gptq", "W4A16g64")
    with Store(path) as store:
        store.put(record)

        assert store.get(record.cell_id[:6]) == record
        assert store.get("gptq/w4a16g64") == record
        assert store.get("invented-135m/gptq/W4A16g64") == record
        with pytest.raises(UnknownNameError, match=r"Did you mean 'gptq/W4A16g64'"):
            store.get("gptk/W4A16g64")
        with pytest.raises(UnknownNameError):
            store.get("")


def test_what_an_engine_made_of_a_cell_has_a_label_of_its_own(path: Path) -> None:
    spec = invented.spec("rtn", "W4A16g64")
    record, measured = (invented.record("rtn", "W4A16g64", cell=one) for one in (spec, spec.on("llamacpp")))
    with Store(path) as store:
        store.put(record)
        store.put(measured)

        assert store.get("rtn/W4A16g64") == record
        assert store.get("rtn/w4a16g64/llamacpp") == measured
        assert store.get(measured.spec.label) == measured
        with pytest.raises(UnknownNameError, match="rtn/W4A16g64/llamacpp"):
            store.get("rtn/W4A16g64/openvino")


def test_a_fingerprint_is_forgotten_with_its_items(path: Path) -> None:
    kept, gone = invented.benchmark()[1:3]
    gone = gone.model_copy(update={"spec": gone.spec.model_copy(update={"model_sha256": "unavailable"})})
    with Store(path) as store:
        for record in (kept, gone):
            store.put(record, [ItemOutcome(task="piqa", item="0", values={"acc": 1})])
        store.forget(gone.spec.model, "unavailable")

        assert store.records() == [kept]
        assert store.items(kept.cell_id) and not store.items(gone.cell_id)


def test_a_place_that_cannot_be_written_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite.writer-lock").mkdir()
    with pytest.raises(StoreError, match="cannot use the store"):
        Store(tmp_path / "store.sqlite")


def test_an_ambiguous_name_lists_the_cells_it_may_mean(path: Path) -> None:
    cells = [invented.record("rtn", "W8A8", cell=invented.spec("rtn", "W8A8", seed=seed)) for seed in (0, 1)]
    with Store(path) as store:
        for record in cells:
            store.put(record)
        with pytest.raises(StoreError, match="matches 2 cells") as error:
            store.get("rtn/W8A8")

    assert all(record.cell_id in str(error.value) for record in cells)


def test_a_second_writer_is_turned_away_and_readers_are_not(path: Path) -> None:
    record = invented.record("rtn", "W8A8")
    with Store(path) as writer:
        with pytest.raises(StoreError, match="being written by another process"):
            Store(path)
        with Store(path, read_only=True) as reader:
            writer.put(record)
            assert reader.records() == [record]
            with pytest.raises(StoreError, match="reading only"):
                reader.put(record)

    with Store(path) as next_writer:
        assert next_writer.finished(record.cell_id)


def test_a_file_that_is_no_store_is_refused_untouched(tmp_path: Path) -> None:
    text = tmp_path / "notes.sqlite"
    text.write_text("not a database, " * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()

    for read_only in (True, False):
        with pytest.raises(StoreError, match="not a SQLite database"):
            Store(text, read_only=read_only)
        with pytest.raises(StoreError, match="not an slmquant store"):
            Store(foreign, read_only=read_only)

    assert text.read_text() == "not a database, " * 100
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


def test_a_store_of_a_newer_schema_is_refused(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    for read_only in (True, False):
        with pytest.raises(StoreError, match="schema 99, written by a newer slmquant"):
            Store(path, read_only=read_only)


def test_a_record_of_a_newer_schema_is_refused(path: Path) -> None:
    with Store(path) as store:
        store.put(invented.record("rtn", "W8A8"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET schema_version = 7")
    connection.close()

    with Store(path) as store, pytest.raises(StoreError, match="record of schema 7"):
        store.records()


def test_a_reader_of_a_missing_store_is_told_what_to_run(path: Path) -> None:
    with pytest.raises(StoreError, match="slmquant bench"):
        Store(path, read_only=True)

    assert not path.exists()


def test_an_empty_file_is_a_store_that_was_not_begun(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(StoreError, match="no result store"):
        Store(path, read_only=True)
    assert not begun(path)

    with Store(path) as store:
        assert store.records() == []
    assert begun(path)


def test_applied_migrations_are_recorded(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM migrations ORDER BY version")]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()

    assert names == [function.__name__ for function in migrations.MIGRATIONS]
    assert version == len(names)


def test_an_older_store_is_brought_up_to_date_and_keeps_its_records(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = invented.record("rtn", "W8A8")
    with Store(path) as store:
        store.put(record)

    def add_notes(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE notes (text TEXT)")

    longer = (*migrations.MIGRATIONS, add_notes)
    monkeypatch.setattr("slmquant.store.migrations.MIGRATIONS", longer)
    monkeypatch.setattr("slmquant.store.sqlite.MIGRATIONS", longer)
    with Store(path, read_only=True) as store:
        assert store.records() == [record]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    connection.close()


FLIPS = {
    "a digit of a record": "UPDATE records SET record = replace(record, '0.4', '0.5')",
    "a record's id": "UPDATE records SET cell_id = replace(cell_id, substr(cell_id, 1, 1), 'x')",
    "a digit of an answer": "UPDATE items SET item_values = replace(item_values, '1', '3')",
    "a lost answer": "DELETE FROM items WHERE position = 3",
    "the order of answers": "UPDATE items SET position = 99 - position",
}


@pytest.mark.parametrize("flip", FLIPS)
def test_a_changed_value_is_an_error_and_no_other_number(path: Path, flip: str) -> None:
    record = invented.ok("rtn", "W8A8", 160, 20, 0.1, 0.5, 0.4, 2, 800)
    with Store(path) as store:
        store.put(record, invented.items(record))
    with sqlite3.connect(path) as connection:
        assert connection.execute(FLIPS[flip]).rowcount
    connection.close()

    with Store(path) as store, pytest.raises(StoreError, match="from a backup"):
        [found] = store.records()
        store.items(found.cell_id)


def test_a_store_without_checksums_is_read_as_it_is_and_gets_them_with_the_next_record(
    path: Path,
) -> None:
    record, more = invented.record("rtn", "W8A8"), invented.record("gptq", "W8A8")
    with Store(path) as store:
        store.put(record)
    with sqlite3.connect(path) as connection:
        for column in ("record_xxh3", "items_xxh3"):
            connection.execute(f"ALTER TABLE records DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("DELETE FROM migrations WHERE version = 2")
    connection.close()

    with Store(path, read_only=True) as store:
        assert store.records() == [record] and store.items(record.cell_id) == []
    with Store(path) as store:
        store.put(more)
    with sqlite3.connect(path) as connection:
        sums = dict(connection.execute("SELECT cell_id, record_xxh3 FROM records"))
    connection.close()
    assert sums[record.cell_id] is None and len(sums[more.cell_id]) == 32


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(path).close()

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half_done (x)")
        connection.execute("SELECT * FROM nowhere")

    monkeypatch.setattr("slmquant.store.migrations.MIGRATIONS", (*migrations.MIGRATIONS, half))
    monkeypatch.setattr("slmquant.store.sqlite.MIGRATIONS", (*migrations.MIGRATIONS, half))
    with pytest.raises(StoreError, match="nowhere"):
        Store(path)
    with sqlite3.connect(path) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()

    assert "half_done" not in tables


WRITE_FOREVER = """
import sys
from slmquant.store import Store
from tests import invented

with Store(sys.argv[1]) as store:
    for seed in range(100_000):
        record = invented.ok("rtn", "W8A8", 160, 20, 0.1, 0.5, 0.4, 2, 800)
        record = record.model_copy(update={"spec": invented.spec("rtn", "W8A8", seed=seed)})
        store.put(record, invented.items(record))
        print(record.cell_id, flush=True)
"""


def test_a_killed_writer_leaves_every_committed_cell_and_no_lock(path: Path, pytestconfig: pytest.Config) -> None:
    command = [sys.executable, "-c", WRITE_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=pytestconfig.rootpath) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(20)]
        time.sleep(0.013)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().split()
        process.wait()

    with Store(path) as store:
        kept = store.records()
        assert {record.cell_id for record in kept} >= {cell for cell in told if len(cell) == 16}
        assert all(len(store.items(record.cell_id)) == 200 for record in kept)
        assert all(isinstance(record, Record) for record in kept)


def test_closing_leaves_one_file_and_the_lock_beside_it(path: Path) -> None:
    with Store(path) as store:
        store.put(invented.record("rtn", "W8A8"))
    with Store(path, read_only=True) as store:
        store.records()

    assert sorted(file.name for file in path.parent.iterdir()) == ["store.sqlite", "store.sqlite.writer-lock"]


def test_the_default_place_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLMQUANT_STORE", raising=False)
    assert default_store_path() == Path("results/slmquant.sqlite")

    monkeypatch.setenv("SLMQUANT_STORE", str(tmp_path / "mine.sqlite"))
    assert default_store_path() == tmp_path / "mine.sqlite"


@pytest.mark.parametrize("package", ["store", "analysis", "report"])
def test_results_are_read_without_the_bank_that_runs_models(package: str) -> None:
    code = (
        f"import pkgutil, importlib, sys, slmquant.{package} as p\n"
        "for m in pkgutil.iter_modules(p.__path__): importlib.import_module(f'{p.__name__}.{m.name}')\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
