"""`engines`, `export`, `bench-engine` and `serve` say what is there, was written, was measured, and cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer import Typer
from typer.testing import CliRunner, Result

from slmquant.cli import bench_engine, export, serve
from slmquant.cli import engines as engines_command
from slmquant.cli._app import app as whole_app
from slmquant.engines.common.serving import API_KEY
from slmquant.errors import ModelError, OutputError, RefusedError, UnknownNameError
from slmquant.model.sources.read_llama2c import read_llama2c
from tests import made_up_engines, tiny_llama2c

pytestmark = pytest.mark.engine

app = Typer()
app.command("engines")(engines_command.command)
app.command("export")(export.command)
app.command("bench-engine")(bench_engine.command)
app.command("serve")(serve.command)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up engines on the path, and a folder to work in."""
    (tmp_path / "path").mkdir()
    made_up_engines.install(tmp_path / "path", monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def folder(made_up: Path) -> Path:
    """A tiny random llama."""
    (made_up / "files").mkdir()
    model, tokenizer = read_llama2c(*tiny_llama2c.write(made_up / "files"))
    model.save_pretrained(made_up / "tiny")
    tokenizer.save_pretrained(made_up / "tiny")
    return made_up / "tiny"


def test_engines_says_which_are_usable_and_how_to_get_the_others(made_up: Path) -> None:
    listed = {card["engine"]: card for card in json.loads(run("engines", "--json").stdout)}

    assert listed["torch_eager"]["usable"] and listed["torch_eager"]["version"].startswith("torch ")
    assert listed["right"]["instructions"] == ["ABACUS"]
    assert listed["missing"]["usable"] is False
    assert "pip install slmquant[made-up]" in listed["missing"]["reason"]
    assert "ABACUS" in run("engines").stdout


def test_a_plug_in_that_cannot_be_imported_does_not_hide_the_others(made_up: Path) -> None:
    (made_up / "path" / "made_up_package" / "right.py").write_text("import no_such_module")

    listed = {card["engine"]: card for card in json.loads(run("engines", "--json").stdout)}

    assert "no_such_module" in listed["right"]["reason"] and listed["torch_eager"]["usable"]


def test_bench_engine_prints_a_row_for_each_and_keeps_everything(made_up: Path) -> None:
    for name in ("a.bin", "full.bin"):
        (made_up / name).write_bytes(bytes(1000))

    result = run(
        "bench-engine", "a.bin", "--engine", "right", "--baseline", "full.bin", "--quick", "--rounds", "1",
        "--output", "out",
    )  # fmt: skip

    assert result.exit_code == 0
    assert "a.bin" in result.stdout and "there is no reference" in result.stdout and "RAPL" in result.stdout
    mine, full = json.loads(next((made_up / "out").glob("*.json")).read_text())
    assert (mine["artifact"], full["artifact"], mine["status"]) == ("a.bin", "full.bin", "ok")
    assert "decode_speedup@512" in {metric["name"] for metric in mine["metrics"]}
    assert mine["slmq_infer"]["value"] > 0 and "against full.bin" in mine["slmq_infer"]["reason"]
    assert mine["samples"] and mine["environment"]["cores"] >= 1


def test_no_row_says_where_on_this_machine_an_artifact_lies(made_up: Path) -> None:
    for folder in ("one", "two"):
        (made_up / folder).mkdir()
        (made_up / folder / "m.bin").touch()
    paths = [str(made_up / folder / "m.bin") for folder in ("one", "two")]

    result = run("bench-engine", *paths, "-e", "unreadable", "--baseline", paths[1], "--quick", "--json", "-o", "out")

    assert [row["artifact"] for row in json.loads(result.stdout)] == ["m.bin (1)", "m.bin (2)"]
    assert str(made_up) not in result.stdout
    assert str(made_up) not in next((made_up / "out").glob("*.json")).read_text()


def test_bench_engine_ends_with_the_exit_code_of_a_bench_where_a_row_failed(made_up: Path) -> None:
    result = run("bench-engine", "a.bin", "-e", "unreadable", "--quick", "--json", "-o", "out")

    (row,) = json.loads(result.stdout)
    assert result.exit_code == 9
    assert row["status"] == "failed" and "version 9" in row["reason"]
    assert row["slmq_infer"]["value"] is None and "--baseline" in row["slmq_infer"]["reason"]


def test_a_slmquant_folder_on_torch_gets_parity_and_no_speed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder.parent / "data"
    (data / "wikitext2").mkdir(parents=True)
    monkeypatch.setattr("slmquant.engine_bench.reference.calibration_corpus", lambda _: "made_up")
    monkeypatch.setattr("slmquant.engine_bench.reference.load_corpus", lambda *_: _Corpus())
    assert (
        run("export", str(folder), "--method", "rtn", "--scheme", "W4A16g8", "-f", "native", "-o", "q").exit_code == 0
    )

    result = run("bench-engine", "q", "-e", "torch_eager", "--reference", "q", "--quick", "--json", "-o", "out")

    (row,) = json.loads(result.stdout)
    figures = {metric["name"]: metric["value"] for metric in row["metrics"]}
    assert row["status"] == "ok" and figures["parity_kl_mean"] < 1e-5
    assert not any("tokens_per_s" in name for name in figures)
    assert any("no speed" in note for note in row["notes"])


class _Card:
    name, sha256 = "made_up", "ab" * 32


class _Corpus:
    text, card = "ab abc bc " * 2000, _Card()


def test_export_tells_how_every_weight_is_stored(folder: Path) -> None:
    result = run(
        "export", str(folder), "--method", "rtn", "--scheme", "W4A16g8", "--format", "native", "-o", "out",
        "--keep", "kept", "--json",
    )  # fmt: skip

    facts = json.loads(result.stdout)
    assert (facts["format"], facts["scheme"]) == ("native", "W4A16g8")
    assert sum(kind["share"] for kind in facts["types"]) == pytest.approx(1)
    assert Path("out").is_dir() and Path("kept").is_dir()
    again = run("export", "kept", "--format", "native", "-o", "again")
    assert again.exit_code == 0 and "share" in again.stdout
    assert run("export", "kept", "--method", "rtn", "-o", "other").exit_code == 2


def test_what_lies_there_is_not_lost(folder: Path) -> None:
    Path("photos").mkdir()
    (Path("photos") / "one.jpg").touch()
    quantized = ("export", str(folder), "--method", "rtn", "--scheme", "W4A16g8", "--format", "native")

    for words in (("-o", "photos"), ("-o", "new", "--keep", "photos")):
        refused = run(*quantized, *words).exception
        assert isinstance(refused, OutputError) and "other contents, which would be lost" in str(refused)
    assert isinstance(run("export", str(folder), "--format", "gguf", "-o", "photos").exception, OutputError)
    assert (Path("photos") / "one.jpg").exists() and not Path("new").exists()
    assert run(*quantized, "-o", "new").exit_code == run(*quantized, "-o", "new").exit_code == 0  # its own may go
    Path("notes.txt").touch()
    assert isinstance(run(*quantized, "-o", "notes.txt", "--overwrite").exception, OutputError)
    assert run(*quantized, "-o", "photos", "--overwrite").exit_code == 0
    assert not (Path("photos") / "one.jpg").exists()


def test_what_a_format_cannot_hold_is_told_before_anything_is_calibrated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a corpus was read")

    monkeypatch.setattr("slmquant.calib.cached.load_corpus", read)
    asked = ("export", str(folder), "--method", "gptq", "-f", "gguf", "-o", "out.gguf", "--scheme")

    for scheme, why in (("W4A8", "activations"), ("W3A16g8", "cannot be stored")):
        refused = run(*asked, scheme).exception
        assert isinstance(refused, RefusedError) and why in str(refused)
    assert isinstance(run(*asked, "W3A16g8", "--otherwise", "q9").exception, UnknownNameError)


def test_a_file_that_is_there_is_kept(folder: Path) -> None:
    Path("model.gguf").write_text("another's")
    asked = ("export", str(folder), "--method", "rtn", "-f", "gguf", "-o", "model.gguf")
    refused = run(*asked).exception

    assert isinstance(refused, OutputError) and "--overwrite" in str(refused)
    assert Path("model.gguf").read_text() == "another's"


def test_one_damaged_artifact_leaves_the_others_their_rows(made_up: Path) -> None:
    for name, content in (
        ("cut", "{"),
        ("vision", '{"model_type": "clip_vision_model"}'),
        ("text", '{"model_type": "llama", "hidden_size": "576"}'),
    ):
        (made_up / name).mkdir()
        (made_up / name / "config.json").write_text(content)
    (made_up / "m.bin").touch()
    result = run("bench-engine", "cut", "vision", "text", "m.bin", "-e", "right", "--quick", "--json", "-o", "out")

    assert [row["artifact"] for row in json.loads(result.stdout)] == ["cut", "vision", "text", "m.bin"]


def test_bad_input_is_answered_in_a_line(made_up: Path) -> None:
    assert isinstance(run("export", "x", "--format", "ggfu", "-o", "y").exception, UnknownNameError)
    assert isinstance(run("bench-engine", "x", "-e", "rigt").exception, UnknownNameError)
    assert run("bench-engine", "x", "y", "-e", "right", "--reference", "z").exit_code == 2
    assert run("bench-engine", "x", "-e", "right", "--threads", "1,two").exit_code == 2
    assert isinstance(run("serve", "x", "-e", "right").exception, RefusedError)


def test_serve_starts_the_engines_own_server(made_up: Path) -> None:
    (made_up / "path" / "made_up_package" / "right.py").write_text(
        made_up_engines._COMMON
        + "class Served(Engine):\n"
        + "    def server(self, artifact, host, port, options):\n"
        + "        words = f'{artifact} {host} {port} {options.threads} {options.context}'\n"
        + "        return sys.executable, '-c', f'open(\"served\", \"w\").write({words!r})'\n"
        + "ENGINE = Served()\n"
    )
    (made_up / "m.gguf").touch()

    result = run("serve", "m.gguf", "-e", "right", "--port", "9000", "--threads", "2")

    assert result.exit_code == 0
    assert (made_up / "served").read_text() == "m.gguf 127.0.0.1 9000 2 2048"
    assert "curl http://127.0.0.1:9000/v1/chat/completions" in result.stderr
    assert isinstance(run("serve", "none.gguf", "-e", "right").exception, ModelError)


SERVED = """
KEEP = "import os; open('key', 'w').write(os.environ.get('SLMQUANT_API_KEY', ''))"

class Served(Engine):
    def server(self, artifact, host, port, options):
        return sys.executable, "-c", KEEP
ENGINE = Served()
"""


def test_a_server_gets_its_key_where_no_other_user_can_read_it(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made_up / "path" / "made_up_package" / "right.py").write_text(made_up_engines._COMMON + SERVED)
    (made_up / "m.gguf").touch()
    asked = ("serve", "m.gguf", "-e", "right")

    keyed = run(*asked, "--api-key", "secret")
    assert keyed.exit_code == 0 and (made_up / "key").read_text() == "secret"
    assert "Authorization: Bearer $SLMQUANT_API_KEY" in keyed.stderr and "secret" not in keyed.stderr
    monkeypatch.setenv("SLMQUANT_API_KEY", "from the surroundings")
    run(*asked)
    assert (made_up / "key").read_text() == "from the surroundings"
    monkeypatch.delenv("SLMQUANT_API_KEY")
    assert "without --api-key" not in run(*asked).stderr  # this machine alone can reach it
    assert "without --api-key, anyone who can reach 0.0.0.0:8080" in run(*asked, "--host", "0.0.0.0").stderr
    assert (made_up / "key").read_text() == "" and API_KEY == serve.API_KEY


def test_the_folder_of_the_files_is_called_the_same_everywhere() -> None:
    for command in ("bench", "report", "bench-engine"):
        parameters = {name: option for option in options_of(command) for name in option.opts}
        assert parameters["-o"] is parameters["--output"] and "Folder for the report's file" in parameters["-o"].help
        assert "instead of a table" in parameters["--json"].help


def options_of(command: str) -> list[Any]:
    group: Any = typer.main.get_command(whole_app)
    return [each for each in group.commands[command].params if each.param_type_name == "option"]


def test_a_server_does_not_outlive_its_command(made_up: Path) -> None:
    beats, path = made_up / "beats", made_up / "path"
    (path / "made_up_package" / "right.py").write_text(
        made_up_engines._COMMON
        + "class Served(Engine):\n"
        + "    def server(self, artifact, host, port, options):\n"
        + f"        return sys.executable, {str(made_up / 'serving.py')!r}\n"
        + "ENGINE = Served()\n"
    )
    (made_up / "serving.py").write_text(
        f"import time\nwhile True:\n    open({str(beats)!r}, 'a').write('x')\n    time.sleep(0.02)\n"
    )
    (made_up / "m.gguf").touch()
    here = Path(made_up_engines.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{here}"}
    command = [sys.executable, "-m", "slmquant", "serve", "m.gguf", "-e", "right"]
    with subprocess.Popen(command, env=environment) as served:
        while not beats.exists():
            assert served.poll() is None
            time.sleep(0.05)
        served.terminate()
    written = beats.stat().st_size
    time.sleep(0.3)

    assert served.returncode == 0 and beats.stat().st_size == written


def test_a_hint_keeps_its_brackets(made_up: Path) -> None:
    """`slmquant[made-up]` is markup to Rich, which would leave `slmquant`."""
    assert "pip install slmquant[made-up]" in " ".join(run("engines").stdout.split())
    here = Path(made_up_engines.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{made_up / 'path'}{os.pathsep}{here}"}
    (made_up / "m.bin").touch()
    command = [sys.executable, "-m", "slmquant", "bench-engine", "m.bin", "-e", "[/missing]"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert said.returncode == 2 and said.stderr.startswith("error: unknown engine '[/missing]'")
