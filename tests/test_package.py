"""The package as a whole: what is public, what importing it costs, that every command helps."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slmquant
from slmquant.cli import app
from slmquant.cli._app import COMMANDS

NAMES = [name for names in COMMANDS.values() for name in names]


def test_every_public_name_is_there() -> None:
    for name in slmquant.__all__:
        assert getattr(slmquant, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        slmquant.quantise  # noqa: B018


def test_importing_slmquant_is_light() -> None:
    code = "import sys, slmquant, slmquant.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})

    assert result.exit_code == 0
    assert f"slmquant {name}" in result.output


@pytest.mark.parametrize("name", ["methods", "schemes", "models"])
def test_lists_are_json_on_request(name: str) -> None:
    import json

    result = CliRunner().invoke(app, [name, "--json"])

    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) >= 3


def test_a_plan_that_names_nothing_known_ends_with_a_line_and_a_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slmquant", "bench", "stories15m", "--methods", "gtpq"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "Did you mean 'gptq'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_submodule_takes_the_place_of_a_public_name() -> None:
    """Importing a submodule sets it as an attribute of the package, whatever stood there before."""
    submodules = {module.name for module in pkgutil.iter_modules(slmquant.__path__)}
    assert not submodules & set(slmquant.__all__)


_ASKED_TO_END = """
import os, signal, tempfile, time
from slmquant.cli import _app

@_app.app.command("wait")
def wait():
    with tempfile.TemporaryDirectory(dir="."):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

_app.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signal asks a process to end there")
def test_a_command_that_is_asked_to_end_puts_its_things_away(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _ASKED_TO_END, "wait"], cwd=tmp_path, check=False, timeout=25)

    assert done.returncode == 130
    assert not list(tmp_path.iterdir())
