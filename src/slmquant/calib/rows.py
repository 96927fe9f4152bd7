"""Rows of text data as they come from outside: JSON objects on lines, checked where they are read.

One reader for every such file, so that each is read alike: rows end at line feeds alone (JSON allows U+2028, U+0085 and
their like inside strings, where Python's `splitlines` would cut), blank lines are skipped, and whatever cannot be used
is named with its file and line.
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
    """The UTF-8 content of a plain or gzipped file, line ends as they are.

    Raises:
        DataError: It is damaged.
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
        name: Where they come from, for errors.
        texts: Fields that every row must have, and whose values must be text.

    Raises:
        DataError: A line is no JSON object, lacks a field, or holds what is no text; the line is named.
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
    """`value` if it is text that can be written down.

    Raises:
        DataError: It is none, or holds half of a surrogate pair, which no encoding has.
    """
    if problem := _text_problem(value):
        raise DataError(f"{where} {problem}; expected text: correct it or leave it out")
    return str(value)


def _problem(row: object, line: str, texts: Collection[str]) -> str | None:
    """What is wrong with a row; None where nothing is."""
    if not isinstance(row, dict):
        return f"the row is {_kind(row)}"
    for field in texts:
        if field not in row:
            return f"it has no {field!r}, but {', '.join(map(repr, row)) or 'nothing'}"
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
    """What a JSON value is, in JSON's words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
