"""The cache stays within its limit, and never loses what a process uses."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from slmquant.cache.entries import MANIFEST, get, lease
from slmquant.cache.upkeep import damaged, items, limit_bytes, pulled, read_size, remove_unused, trim
from slmquant.cache.write import About, put
from slmquant.errors import OutputError
from tests.damage import damage

HOUR = 3600.0
LARGE = 100_000


def keep(cache: Path, name: str, size: int = 1000, hours: float = 1) -> Path:
    """An entry, last used some hours ago."""
    path = cache / "statistics" / name
    put(path, About("tiny", "states"), bytes(size))
    os.utime(path / MANIFEST, (time.time() - hours * HOUR,) * 2)
    return path


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def test_the_least_recently_used_goes_first_until_the_limit_is_kept(tmp_path: Path) -> None:
    old, older, new = keep(tmp_path, "old", hours=3), keep(tmp_path, "older", hours=9), keep(tmp_path, "new")
    assert get(older) is not None  # which makes it the one used last

    removed = trim(items(tmp_path), size(new))

    assert [item.name for item in removed] == ["statistics/old"]
    assert not old.exists() and older.exists() and new.exists()


def test_nothing_is_removed_on_trial_or_without_need(tmp_path: Path) -> None:
    path = keep(tmp_path, "a")
    (item,) = items(tmp_path)

    assert trim([item], None, dry_run=True) == [item] and path.exists()
    assert trim([item], 0) == [] and path.exists()
    assert trim([item], None) == [item] and not path.exists()


def test_what_was_used_minutes_ago_and_what_is_small_stays_whatever_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent, small, large = keep(tmp_path, "recent", LARGE, 0.1), keep(tmp_path, "small", 10), keep(tmp_path, "a", LARGE)
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", "1kB")
    new = keep(tmp_path, "new", LARGE)

    assert recent.exists() and small.exists() and new.exists() and not large.exists()


def test_an_entry_from_the_future_of_a_clock_that_was_set_back_can_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = keep(tmp_path, "future", LARGE, hours=-1000)
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", "1kB")
    keep(tmp_path, "new", LARGE)

    assert not future.exists()


def hold(entry: Path, pipe: Connection) -> None:
    with lease(entry):
        os.utime(entry / MANIFEST, (0, 0))  # so that only the lease protects it
        pipe.send("held")
        pipe.recv()


def test_an_entry_that_another_process_uses_stays_until_it_has_ended(tmp_path: Path) -> None:
    path = keep(tmp_path, "used")
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(path, theirs))
    process.start()
    assert ours.recv() == "held"

    (item,) = items(tmp_path)
    assert not remove_unused(item) and path.exists()
    process.kill()  # a lease ends with its process, however that ends
    process.join()
    assert remove_unused(item) and not path.exists()


def test_two_leases_in_one_process_are_two(tmp_path: Path) -> None:
    path = keep(tmp_path, "used")
    first, second = lease(path), lease(path)
    os.utime(path / MANIFEST, (0, 0))
    (item,) = items(tmp_path)

    del first
    assert not remove_unused(item)
    with second:
        pass
    assert remove_unused(item)


def test_earlier_layouts_are_recognised_and_stay_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, recent = tmp_path / "reference" / f"{'a' * 24}.safetensors", tmp_path / "fingerprints" / f"{'b' * 32}.json"
    theirs = tmp_path / "reference" / "my notes.txt"
    for path, hours in ((old, 25), (recent, 23), (theirs, 100)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(LARGE))
        os.utime(path, (time.time() - hours * HOUR,) * 2)

    assert [item.path for item in items(tmp_path)] == [recent, old]
    assert {item.content for item in items(tmp_path)} == {"of an earlier version of slmquant"}
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", "0")
    keep(tmp_path, "new", LARGE)
    assert not old.exists() and recent.exists() and theirs.exists()


def test_pulled_models_are_listed_apart(tmp_path: Path) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(100))
    os.utime(model, (0, 0))

    assert items(tmp_path) == []
    assert [(item.name, item.size_bytes) for item in pulled(tmp_path)] == [("models/tiny", 100)]


def test_damaged_entries_are_found_with_the_reason(tmp_path: Path) -> None:
    keep(tmp_path, "good")
    damage(keep(tmp_path, "bad") / "content.json", 5)
    damage(keep(tmp_path, "worse") / MANIFEST, None)

    assert {item.name: why for item, why in damaged(items(tmp_path))} == {
        "statistics/bad": "content.json differs from its checksum",
        "statistics/worse": "entry.json cannot be read",
    }


def test_writing_keeps_the_limit_that_the_environment_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = keep(tmp_path, "old", 200_000)
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", "300kB")
    new = keep(tmp_path, "new", 200_000)

    assert new.exists() and not old.exists()


@pytest.mark.parametrize(("text", "expected"), [("20GB", 20_000_000_000), ("1.5 GiB", 1_610_612_736), ("0", 0)])
def test_sizes_are_read_with_their_units(text: str, expected: int) -> None:
    assert read_size(text, "the limit") == expected


@pytest.mark.parametrize("text", ["much", "-1GB", "20 apples"])
def test_a_limit_that_is_no_size_is_an_error_that_says_so(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", text)
    with pytest.raises(OutputError, match=r"SLMQUANT_CACHE_LIMIT is .*; expected a size such as 20GB or 500MiB"):
        limit_bytes()


def test_without_the_variable_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLMQUANT_CACHE_LIMIT", raising=False)
    assert limit_bytes() == 20_000_000_000
