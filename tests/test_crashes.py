"""What must hold wherever it runs: another encoding, a full disk."""

from __future__ import annotations

import ast
from pathlib import Path

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
