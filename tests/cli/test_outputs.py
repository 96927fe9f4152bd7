"""What commands write: never over their source, readable as the umask says, named as it is, and refused in one line."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from slmquant.cli._app import run
from slmquant.store import Store
from slmquant.testing.tiny import tiny
from tests import invented
from tests.cli.exports import EXPORTS
from tests.formats.gguf_models import tokenizer

Run = Callable[..., tuple[int, str]]
RTN = ("--method", "rtn", "--scheme", "W8A16")


@pytest.fixture
def slmquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line in a folder with a model in `model`: its exit code, and all that it printed."""
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "wikitext2_train.txt").write_text("a b ab " * 100)  # else a package is downloaded
    for name, value in {"CACHE": str(tmp_path / "cache"), "DATA": str(tmp_path / "data")}.items():
        monkeypatch.setenv(f"SLMQUANT_{name}", value)
    monkeypatch.chdir(tmp_path)
    tiny("llama", hidden_size=64, intermediate_size=96).save_pretrained("model")  # sides that every format takes
    tokenizer().save_pretrained("model")

    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(words)
        return code, "".join(capsys.readouterr())

    return command


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("output", ["model", "./model/", "link", "model/quantized", "."])
@pytest.mark.parametrize("command", ["quantize", "export"])
def test_an_output_never_destroys_its_source(slmquant: Run, tmp_path: Path, output: str, command: str) -> None:
    (tmp_path / "link").symlink_to("model")
    before = _files(tmp_path / "model")
    kind = ("-f", "native") if command == "export" else ()
    code, said = slmquant(command, "./model", *RTN, *kind, "-o", output, "--overwrite")
    assert code == 2 and "the input" in said
    assert _files(tmp_path / "model") == before
    assert (tmp_path / "link").is_symlink()


def test_a_model_of_the_cache_is_not_overwritten_by_its_name(slmquant: Run, tmp_path: Path) -> None:
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "model").rename(tmp_path / "cache" / "models" / "known")
    code, said = slmquant("quantize", "known", *RTN, "-o", "cache/models/known", "--overwrite")
    assert code == 2 and "the input" in said


def test_links_are_followed(slmquant: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to("elsewhere")
    assert slmquant("quantize", "./model", *RTN, "-o", "out")[0] == 0
    assert (tmp_path / "out").is_symlink() and (tmp_path / "elsewhere" / "slmquant.json").is_file()


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize("kind", ["native", "gptq", "gguf"])
def test_others_may_read_what_the_umask_lets_them(slmquant: Run, tmp_path: Path, umask: int, kind: str) -> None:
    scheme = "W8A16g32" if kind == "gptq" else "W8A16"
    words = ("--method", "rtn", "--scheme", scheme, "--otherwise", "F16") if kind == "gguf" else (*RTN[:3], scheme)
    code, said = slmquant("export", "./model", "-f", kind, *words, "-o", "out")
    assert code == 0, said
    out = tmp_path / "out"
    for file in [out] if out.is_file() else list(out.iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file


@pytest.mark.parametrize("name", ["runs [v1]", "vol[/b]", "日本 é", "[red]x"])
def test_a_path_is_printed_as_it_is(slmquant: Run, tmp_path: Path, name: str) -> None:
    code, said = slmquant("quantize", "./model", *RTN, "-o", f"{name}/out")
    assert code == 0 and f"wrote {name}/out:" in said
    assert (tmp_path / name / "out" / "slmquant.json").is_file()
    code, said = slmquant(
        "export", "./model", "-f", "gptq", "--method", "rtn", "--scheme", "W8A16g32", "-o", f"{name}/g"
    )
    assert code == 0 and f"{name}/g" in said
    code, said = slmquant("quantize", f"./{name}", *RTN, "-o", "other")
    assert code == 4 and f"{name} has no config.json" in said
    with Store(tmp_path / name / "s.sqlite") as store:
        for record in invented.benchmark():
            store.put(record)
    code, said = slmquant("report", "--store", f"{name}/s.sqlite", "-f", "csv", "-o", f"{name}/rep")
    assert code == 0 and f"wrote {name}/rep/results.csv" in said
    code, said = slmquant("list", "--store", f"{name}/absent.sqlite")
    assert code != 0 and f"{name}/absent.sqlite" in said


def test_a_terminal_obeys_no_name(slmquant: Run) -> None:
    code, said = slmquant("quantize", "no\x1b[31m\u202esuch", *RTN, "-o", "out")
    assert code != 0
    assert "\x1b[31m" not in said and "\u202e" not in said and r"\x1b" in said


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 16 kB: what a full disk is to a library."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("kind", "scheme", "more"), EXPORTS)
def test_a_disk_that_becomes_full_is_one_line_and_leaves_nothing(
    slmquant: Run, tmp_path: Path, small_files: None, kind: str, scheme: str, more: tuple[str, ...]
) -> None:
    if (needed := {"onnx": "onnxruntime_genai", "openvino": "openvino"}.get(kind)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    code, said = slmquant("export", "./model", "-f", kind, "--method", "rtn", "--scheme", scheme, *more, "-o", "out")
    assert code == 10 and "no space to write out" in said and "Traceback" not in said, said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "data", "model"]


def test_room_is_asked_for_before_the_work(slmquant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmquant.files.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    monkeypatch.setattr("slmquant.api.quantize", lambda *args, **words: pytest.fail("it was quantized first"))
    code, said = slmquant("quantize", "./model", *RTN, "-o", "out")
    assert code == 10 and "kB are needed" in said and "100 bytes are free" in said


def test_what_nobody_foresaw_is_one_line_and_a_file(
    slmquant: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **words: object) -> None:
        raise ZeroDivisionError("a [bug]")

    monkeypatch.setattr("slmquant.api.quantize", broken)
    code, said = slmquant("quantize", "./model", *RTN, "-o", "out")
    assert code == 1 and "ZeroDivisionError: a [bug]; traceback saved in " in said and "Traceback" not in said
    saved = next((tmp_path / "cache" / "errors").iterdir())
    assert str(saved) in said and "ZeroDivisionError: a [bug]" in saved.read_text()
    monkeypatch.setenv("SLMQUANT_DEBUG", "1")
    assert "Traceback" in slmquant("quantize", "./model", *RTN, "-o", "out")[1]


def test_an_interruption_is_clean(slmquant: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slmquant.api.quantize", interrupted)
    code, said = slmquant("quantize", "./model", *RTN, "-o", "out")
    assert code == 130 and "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "./model", "-o", "out", "--samples", "0"),
        ("quantize", "./model", "-o", "out", "--seq-len", "1"),
        ("quantize", "./model", "-o", "out", "--seed", str(2**70)),
        ("bench", "./model", "--seed", "-1"),
        ("bench", "./model", "--timeout", "nan"),
        ("chat", "./model", "--max-tokens", str(2**70)),
        ("bench",),
        ("quantize",),
        ("export", "./model"),
        ("show",),
    ],
)
def test_what_cannot_be_meant_is_told_in_the_words_of_the_options(slmquant: Run, words: tuple[str, ...]) -> None:
    code, said = slmquant(*words)
    assert code == 2, said
    assert "Traceback" not in said and "pydantic" not in said and "got {" not in said
