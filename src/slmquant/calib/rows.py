"""Reads and checks rows of text data: files with one JSON object per line.

All such files use this reader. Rows end only at line feeds (JSON allows U+2028, U+0085 and similar characters inside
strings, where Python's `splitlines` would split), blank lines are skipped, and errors name the file and line.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from slmquant.errors import DataError

__all__ = ["checked_text", "parse_rows", "read_rows", "read_text"]

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path) -> str:
    """The UTF-8 content of a plain or gzipped file, with line ends unchanged.

    Raises:
        DataError: The file is damaged.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}); expected UTF-8 text, gzipped if it ends in .gz") from error


def read_rows(path: Path, texts: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, plain or gzipped; raises as `read_text` and `parse_rows`."""
    return parse_rows(read_text(path), str(path), texts)


def parse_rows(content: str, name: str, texts: Collection[str] = ()) -> list[dict[str, Any]]:
    """The JSON objects on the lines of `content`.

    Args:
        content: The lines.
        name: Name of their source, for errors.
        texts: Fields that every row must have, with text as values.

    Raises:
        DataError: A line is no JSON object, lacks a field, or has a value that is not text; the message names the line.
    """
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem: str | None = getattr(error, "msg", None) or "nested too deeply"
        else:
            problem = _problem(row, line, texts)
        if problem is not None:
            raise DataError(
                f"{name} is malformed in line {number}: {problem}; expected one JSON object per line"
                + (f" with text as {' and '.join(map(repr, texts))}" if texts else "")
            )
        rows.append(row)
    return rows


def checked_text(value: object, where: str) -> str:
    """Return `value` if it is text that can be encoded.

    Raises:
        DataError: It is not text, or holds half of a surrogate pair, which cannot be encoded.
    """
    if problem := _text_problem(value):
        raise DataError(f"{where} {problem}; expected text: correct it or remove it")
    return str(value)


def _problem(row: object, line: str, texts: Collection[str]) -> str | None:
    """The problem of a row in words, or None."""
    if not isinstance(row, dict):
        return f"the row is {_kind(row)}"
    for field in texts:
        if field not in row:
            return f"it has no {field!r}; its fields: {', '.join(map(repr, row)) or 'none'}"
        if problem := _text_problem(row[field]):
            return f"{field!r} {problem}"
    if _ESCAPED_SURROGATE.search(line) and (problem := _text_problem(json.dumps(row, ensure_ascii=False))):
        return f"it {problem}"
    return None


def _text_problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"is {_kind(value)}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a character (\\u{ord(value[error.start]):04x}, one of a surrogate pair)"
    return None


def _kind(value: object) -> str:
    """The kind of a JSON value, in JSON's words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
