"""What libraries, files and the system raise becomes one of our errors, once for each library."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from slmquant.boundary import guarded, is_space, or_none, reading, reason, save_traceback, without_folders, writing
from slmquant.errors import DataError, ModelError, OutputError, RefusedError, SpaceError, first_line
from slmquant.model.sources.pull import pull
from slmquant.packages import Package, fetch


class PanicException(BaseException):
    """As pyo3 names what a library in Rust panics with."""


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("bad header\nmore"),
        KeyError("model_type"),
        RecursionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        AssertionError(),
        PanicException("index out of bounds"),
    ],
)
def test_whatever_a_reader_raises_names_the_file_the_reason_and_the_remedy(raised: BaseException) -> None:
    expected = r"x\.gguf cannot be read as a GGUF file \(.+\); fetch it again"
    with pytest.raises(ModelError, match=expected) as caught, reading(Path("x.gguf"), "a GGUF file"):
        raise raised
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [RefusedError("no"), MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_our_own_errors_memory_and_interruptions_go_through(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, guarded(str, DataError):
        raise raised
    assert caught.value is raised


def test_a_reason_is_one_printable_line() -> None:
    assert reason(KeyError("a")) == "'a' is missing"
    assert reason(OSError(errno.ENOENT, "No such file", "secret/path")) == "No such file"
    assert reason(ValueError("\x1b[31mred\x1b[0m")) == r"\x1b[31mred\x1b[0m"
    assert len(reason(ValueError("x" * 10_000))) <= 300
    assert reason(TypeError("'NoneType' object is not subscriptable")).startswith("TypeError: ")


def test_a_full_disk_is_one_however_a_library_says_it() -> None:
    assert is_space(OSError(errno.ENOSPC, "x"))
    assert is_space(RuntimeError("I/O error: No space left on device (os error 28)"))
    outer = RuntimeError("cannot serialize")
    outer.__cause__ = OSError(errno.EDQUOT, "x")
    assert is_space(outer)
    assert not is_space(OSError(errno.EACCES, "x"))


def test_writing_names_the_file_where_a_library_meets_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(SpaceError, match=r"no space to write .*model\.safetensors"),
        writing(tmp_path / "model.safetensors"),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(OutputError, match=r"cannot write .*: Read-only file system; choose another path"),
        writing(tmp_path / "x"),
    ):
        raise OSError(errno.EROFS, "Read-only file system")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x"):  # a bug stays one
        _ = 1 // 0


def test_what_can_be_had_another_way_may_fail() -> None:
    assert or_none(lambda: 3) == 3
    assert or_none(lambda: [][0]) is None


def test_a_traceback_is_kept_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "file").write_text("")
    try:
        raise ValueError("unforeseen")
    except ValueError as error:
        saved = save_traceback(error, tmp_path / "errors")
        beside = save_traceback(error, tmp_path / "file" / "errors")  # no folder can be made there
    assert saved is not None and "ValueError: unforeseen" in saved.read_text()
    assert beside is not None and beside.parent == tmp_path / "temporary"


def test_what_is_published_names_no_folder_of_this_machine() -> None:
    assert without_folders("/home/me/models/tiny [x]") == "tiny [x]"
    assert without_folders("~/models/tiny/") == "tiny"
    assert without_folders("/home/me/m/config.json says 'no' (see /tmp/x/y.txt)") == "config.json says 'no' (see y.txt)"
    for same in ("org/name", "rtn/W4A16", "tokens/s", "https://a.org/b/c", "./models/tiny", "1/2 and 3/4/5"):
        assert without_folders(same) == same


def test_without_a_folder_for_temporary_files_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Full, missing or read-only, all of them: `tempfile` itself raises."""
    missing = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    def none() -> str:
        raise missing

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(SpaceError, match="no space left on a disk"), guarded(str):
        none()
    with pytest.raises(SpaceError, match="no space to write"), writing(tmp_path / "x"):
        none()
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x"):  # which is not hidden by the other
        _ = 1 // 0
    saved = save_traceback(ValueError("unforeseen"), tmp_path / "errors")
    assert saved is not None and saved.parent == tmp_path / "errors"


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read_only(*args: object, **words: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("slmquant.files.tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("slmquant.packages.subprocess.Popen", lambda *args, **words: pytest.fail("it was fetched"))
    gets: tuple[Callable[[], object], ...] = (
        lambda: pull("stories15m"),
        lambda: fetch(Package("pypi", "x", "1", "0" * 64)),
    )
    for get in gets:
        with pytest.raises(
            OutputError,
            match="Read-only file system; choose another path, or, if it is in the cache, set SLMQUANT_CACHE",
        ):
            get()


@pytest.mark.parametrize(("text", "line"), [("\n  bad header \nmore", "bad header"), (" \n", ""), ("", "")])
def test_the_first_line_of_an_error_is_the_first_that_is_not_blank(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line
