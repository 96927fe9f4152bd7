"""What is in the cache is whole and as it was written, or it is not there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from slmquant.cache.entries import MANIFEST, checked, entry_path, get, is_sound, lease, read_manifest, using
from slmquant.cache.write import About, put, writing
from slmquant.errors import CacheError
from tests.damage import damage

ABOUT = About("tiny", "two files")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    path = tmp_path / "statistics" / "a"
    with writing(path, ABOUT) as folder:
        (folder / "one.bin").write_bytes(bytes(range(256)) * 100)
        (folder / "inner").mkdir()
        (folder / "inner" / "two.txt").write_text("two")
    return path


def test_an_entry_says_what_it_is_and_is_read_back(entry: Path) -> None:
    manifest = read_manifest(entry)

    assert (manifest.model, manifest.content, sorted(manifest.files)) == (
        "tiny",
        "two files",
        ["inner/two.txt", "one.bin"],
    )
    assert is_sound(entry) and checked(entry, "inner/two.txt").read_text() == "two"


@pytest.mark.parametrize(
    ("name", "at", "why"),
    [
        ("one.bin", 1234, "one.bin differs from its checksum"),
        ("one.bin", None, "one.bin has 12.8 kB instead of 25.6 kB"),
        ("inner/two.txt", 0, "inner/two.txt differs from its checksum"),
        (MANIFEST, None, "entry.json cannot be read"),
    ],
)
def test_damage_is_logged_in_one_line_and_the_entry_is_removed(
    entry: Path, name: str, at: int | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(entry / name, at)

    assert not is_sound(entry)
    assert caplog.messages == [f"cache: statistics/a was damaged ({why}); it is computed again"]
    assert not entry.exists() and not list(entry.parent.iterdir())


def test_a_flipped_bit_of_the_manifest_is_harmless_or_noticed(tmp_path: Path) -> None:
    for bit in range(0, 200, 7):
        path = tmp_path / "kind" / f"{bit}"
        put(path, ABOUT, b"content")
        damage(path / MANIFEST, bit)
        assert get(path) in (b"content", None)


def test_a_missing_file_is_damage(entry: Path) -> None:
    (entry / "one.bin").unlink()

    with pytest.raises(CacheError, match=r"statistics/a of the cache is gone or was damaged \(No such file"):
        checked(entry, "one.bin")
    assert not entry.exists()


def test_a_damaged_file_is_noticed_when_it_is_read_and_not_before(entry: Path) -> None:
    damage(entry / "one.bin", 7)

    assert checked(entry, "inner/two.txt").read_text() == "two"
    with pytest.raises(CacheError, match=r"one\.bin differs from its checksum"):
        checked(entry, "one.bin")


def test_an_absent_entry_is_not_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = tmp_path / "kind" / "none"

    assert get(absent) is None and not is_sound(absent)
    for ask in (lease, using):
        with pytest.raises(CacheError, match="kind/none of the cache is gone"):
            ask(absent)
    assert not caplog.messages


def test_small_contents_are_written_and_read_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "precision" / "a"
    put(path, ABOUT, b'{"kl": 0.25}')
    assert get(path) == b'{"kl": 0.25}'

    damage(path / "content.json", 8)  # still JSON, with another number
    with caplog.at_level(logging.WARNING):
        assert get(path) is None
    put(path, ABOUT, b'{"kl": 0.25}')
    assert get(path) == b'{"kl": 0.25}'


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path / "kind" / "a", ABOUT) as folder:
            (folder / "half").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert not list((tmp_path / "kind").iterdir())


def test_of_two_writers_the_first_wins_and_readers_are_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "kind" / "a"
    with writing(path, ABOUT) as slow:
        (slow / "content.json").write_bytes(b"second")
        put(path, ABOUT, b"first")
        with lease(path):
            assert get(path) == b"first"

    assert get(path) == b"first" and [each.name for each in path.parent.iterdir()] == ["a"]


def test_a_key_decides_the_path_whatever_its_order(tmp_path: Path) -> None:
    key = {"model": "a", "limit": None, "version": [1, 2]}

    assert entry_path(tmp_path, "reference", key) == tmp_path / "reference" / "537965d32a2956989127d937"
    assert entry_path(tmp_path, "reference", dict(reversed(key.items()))) == entry_path(tmp_path, "reference", key)
    assert entry_path(tmp_path, "reference", key | {"limit": 1}) != entry_path(tmp_path, "reference", key)
