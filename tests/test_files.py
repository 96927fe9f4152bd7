"""Nothing is half-written, nothing is lost, and others may read it as the user's umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmquant import exchange
from slmquant.boundary import size_text
from slmquant.errors import OutputError, SpaceError
from slmquant.files import (
    atomic_dir,
    atomic_file,
    check_output,
    remove_leftovers,
    require_space,
)
from tests.killing import killed_at_steps


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_has_the_permissions_of_the_umask_whatever_a_library_does(tmp_path: Path, umask: int) -> None:
    with atomic_file(tmp_path / "one") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    with atomic_dir(tmp_path / "folder") as temporary:
        os.close(os.open(temporary / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
        (temporary / "templates").mkdir(mode=0o700)
        (temporary / "templates" / "a").write_text("")
    assert _mode(tmp_path / "one") == _mode(tmp_path / "folder" / "weights") == 0o666 & ~umask
    assert _mode(tmp_path / "folder" / "templates" / "a") == 0o666 & ~umask
    assert _mode(tmp_path / "folder") == _mode(tmp_path / "folder" / "templates") == 0o777 & ~umask


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("old")
    (tmp_path / "link").symlink_to("big")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").symlink_to("elsewhere")
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    with atomic_dir(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big").read_text() == "new"
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "elsewhere" / "a").exists()


def test_what_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "one") as temporary:
        temporary.write_text("half")
        _ = 1 // 0
    with pytest.raises(ZeroDivisionError), atomic_dir(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("half")
        _ = 1 // 0
    assert (tmp_path / "one").read_text() == (tmp_path / "folder" / "a").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "one"]


def test_a_library_that_meets_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"no space to write .*out"), atomic_dir(tmp_path / "out"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_what_a_killed_process_left_goes_when_the_same_is_written_a_day_later(tmp_path: Path) -> None:
    killed = atomic_dir(tmp_path / "out[1]")
    left = killed.__enter__()  # and never left, as where a process is killed
    others = tmp_path / ".out[1].theirs"
    others.mkdir()
    with atomic_dir(tmp_path / "out[1]"):
        pass
    assert left.exists()  # it may be at work still
    for entry in (left, others):
        os.utime(entry, (0, 0))
    with atomic_dir(tmp_path / "out[1]"):
        pass
    assert not left.exists()
    assert others.exists()
    remove_leftovers(tmp_path)
    assert not others.exists()


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_process_that_is_killed_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    """At whatever moment; on file systems that cannot exchange two folders, as soon as the same is written again."""
    if not in_one_step:
        monkeypatch.setattr(exchange, "_in_one_step", lambda new, old: False)

    def write(text: str) -> None:
        with atomic_dir(tmp_path / "out") as temporary:
            for name in "abc":
                (temporary / name).write_text(text)

    write("old")
    count = 0
    for step in killed_at_steps(lambda: write("new"), tmp_path):
        count += 1
        if not in_one_step:
            with pytest.raises(ZeroDivisionError), atomic_dir(tmp_path / "out"):
                _ = 1 // 0
        found = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
        assert found in [dict.fromkeys("abc", text) for text in ("old", "new")], step
        write("old")
    assert count > 10
    for entry in tmp_path.glob(".*"):
        os.utime(entry, (0, 0))
    write("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_output_never_touches_what_it_is_made_from(tmp_path: Path) -> None:
    source = tmp_path / "models" / "source"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for output, why in (
        (source, "is also the input"),
        (tmp_path / "link", "is also the input"),
        (tmp_path / "models" / ".." / "models" / "source", "is also the input"),
        (source / "quantized", "is inside the input"),
        (tmp_path / "models", "contains the input"),
    ):
        with pytest.raises(OutputError, match=why):
            check_output(output, True, overwrite=True, source=source)
    check_output(tmp_path / "models" / "source-quantized", True, source=source)


def test_space_is_asked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"1\.15 EB are needed in .* and [\d.]+ [kMGT]?B are free; free some"):
        check_output(tmp_path / "new" / "out", True, least_bytes=1 << 60)


def test_a_number_of_bytes_can_be_read_however_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = [size_text(count) for count in (0, 1, 999, 1000, 40_960, 999_600, 1_530_000, 270_899_999, 1 << 60)]
    assert shown == ["0 bytes", "1 byte", "999 bytes", "1 kB", "41 kB", "1 MB", "1.53 MB", "271 MB", "1.15 EB"]
    monkeypatch.setattr("slmquant.files.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 4096})())
    with pytest.raises(SpaceError, match=r"123 kB are needed in .* and 4\.1 kB are free"):
        require_space(tmp_path, 123_456)
