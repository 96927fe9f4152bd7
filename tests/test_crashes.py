"""What must hold wherever it runs: another encoding, a full disk."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import slmquant

_SOURCES = Path(slmquant.__file__).parent


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    """Every `read_text` and `write_text` names its encoding, and no subprocess's output is taken as the locale's."""
    found = []
    for file in sorted(_SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            words = {keyword.arg for keyword in node.keywords}
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if method in ("read_text", "write_text") and "encoding" not in words:
                found.append(f"{file.relative_to(_SOURCES)}:{node.lineno}")
            if words & {"text", "universal_newlines"} and method in ("run", "Popen", "check_output"):
                found.append(f"{file.relative_to(_SOURCES)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize(
    ("locale", "word", "remedy"),
    [
        ({"LC_ALL": "C"}, b"caf\xe9", "rename that file or folder"),
        ({"LC_ALL": "C.UTF-8"}, b"\xff\xfe/\x80", "rename that file or folder"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "café".encode(), "or set PYTHONUTF8=1"),
    ],
)
def test_words_that_are_no_text_are_refused_in_a_line(
    locale: dict[str, str], word: bytes, remedy: str, tmp_path: Path
) -> None:
    """Rows, JSON and manifests that would name them are UTF-8."""
    line = [sys.executable, "-m", "slmquant", "list", "--store"]
    clean = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LANG", "PYTHONUTF8")}
    done = subprocess.run([*line, word], env={**clean, **locale}, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"error: word 3 of the command line" in done.stderr and remedy.encode() in done.stderr
    assert b"Traceback" not in done.stderr

    cache = os.fsencode(tmp_path) + b"/\xe9"
    variables = {os.fsencode(name): os.fsencode(value) for name, value in clean.items()} | {b"SLMQUANT_CACHE": cache}
    done = subprocess.run([*line, b"x"], env=variables, capture_output=True, check=False)
    assert done.returncode == 2 and b"error: the variable SLMQUANT_CACHE" in done.stderr
