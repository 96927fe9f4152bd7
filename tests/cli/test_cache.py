"""`slmquant cache`: what is there is shown, what is damaged is found, what is removed was meant."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from slmquant.cache.entries import MANIFEST, lease
from slmquant.cache.write import About, put
from slmquant.cli._app import run
from tests.damage import damage

DAY = 24 * 3600.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Statistics used today, a reference used ten days ago, a file of an earlier version, and a pulled model."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SLMQUANT_CACHE", str(folder))
    monkeypatch.delenv("SLMQUANT_CACHE_LIMIT", raising=False)
    for kind, key, size, days in (("statistics", "ab12cd34ef", 5000, 0), ("reference", "0123456789", 2000, 10)):
        put(folder / kind / key, About("tiny", f"{kind} of a text"), bytes(size))
        os.utime(folder / kind / key / MANIFEST, (time.time() - days * DAY,) * 2)
    (folder / "reference" / f"{'f' * 24}.json").write_text("{}")
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    return folder


def there(cache: Path) -> set[str]:
    return {str(path.relative_to(cache))[:16] for path in cache.glob("*/*")}


ALL = {"statistics/ab12c", "reference/012345", "reference/ffffff", "models/tiny"}


def test_it_shows_what_is_there_with_total_and_limit(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache"]) == 0
    shown = capsys.readouterr().out

    for text in ("statistics/ab12cd34", "tiny", "reference of a text", "of an earlier version", "3 entries", "20 GB"):
        assert text in shown
    assert "models/tiny: 2 bytes, pulled; no cache" in shown


def test_json_has_all_of_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)

    assert shown["folder"] == str(cache) and shown["limit_bytes"] == 20_000_000_000
    assert {entry["name"]: entry["model"] for entry in shown["entries"]} == {
        "statistics/ab12cd34ef": "tiny", "reference/0123456789": "tiny", f"reference/{'f' * 24}.json": None,
    }  # fmt: skip
    assert shown["total_bytes"] == sum(entry["size_bytes"] for entry in shown["entries"])
    assert [entry["name"] for entry in shown["pulled"]] == ["models/tiny"]


def test_an_empty_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "none"))
    for words in (["cache"], ["cache", "verify"], ["cache", "clean", "--all"]):
        assert run(words) == 0


def test_verify_finds_damage_and_says_how_to_remove_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "verify"]) == 0
    assert "2 entries" in capsys.readouterr().err
    damage(cache / "statistics" / "ab12cd34ef" / "content.json", 9)

    assert run(["cache", "verify"]) == 6
    out, err = capsys.readouterr()
    assert "statistics/ab12cd34ef: content.json differs from its checksum" in out
    assert "slmquant cache clean statistics/ab12cd34" in err and there(cache) == ALL
    assert run(["cache", "verify", "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["damaged"][0]["why"] == "content.json differs from its checksum"


@pytest.mark.parametrize(
    ("words", "goes"),
    [
        (["--all"], ALL - {"models/tiny"}),
        (["--older-than", "7d"], {"reference/012345"}),
        (["--max-bytes", "5.4kB"], {"reference/012345"}),
        (["--max-bytes", "0"], ALL - {"models/tiny"}),
        (["statistics"], {"statistics/ab12c"}),
        (["reference", "--older-than", "1d"], {"reference/012345"}),
        (["reference/0123", "models/tiny"], {"reference/012345", "models/tiny"}),
        (["precision"], set()),
    ],
)
def test_clean_removes_what_was_named_and_nothing_on_trial(
    cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], goes: set[str]
) -> None:
    assert run(["cache", "clean", *words, "--dry-run"]) == 0
    assert f"would remove {len(goes)} of" in capsys.readouterr().err and there(cache) == ALL

    assert run(["cache", "clean", *words, "--json"]) == 0
    assert there(cache) == ALL - goes
    assert len(json.loads(capsys.readouterr().out)["removed"]) == len(goes)


def test_what_is_in_use_stays_and_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lease(cache / "statistics" / "ab12cd34ef"):
        assert run(["cache", "clean", "statistics"]) == 0

    assert "in use, and kept: 1 entries (statistics/ab12cd34)" in capsys.readouterr().err
    assert there(cache) == ALL


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what to remove"),
        (["models"], "models is no cache: name each that is to go, e.g. models/tiny"),
        (["models/tin"], "the cache has no 'models/tin'"),
        (["statistic"], "the cache has no 'statistic'"),
        (["reference/../models"], "the cache has no 'reference/../models'"),
        (["--older-than", "long"], "--older-than is 'long'; expected e.g. 7d"),
        (["--max-bytes", "much"], "--max-bytes is 'much'; expected a size such as 20GB"),
    ],
)
def test_bad_input_removes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert run(["cache", "clean", *words]) == 2
    assert says in capsys.readouterr().err and there(cache) == ALL


def test_a_limit_that_cannot_be_read_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE_LIMIT", "some")
    assert run(["cache"]) == 2
