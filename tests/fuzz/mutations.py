"""What may have become of a file on its way: every mutation follows from a seed alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 2**31, 2**63, 2**70, -(2**63), 0.0, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", " ", "x", "float32", "\x1b[31mred", "[/bold]", "\ud800", "a" * 5000, "../../etc/passwd", "日本語",
    [], [[]], [None], ["a", 1], {}, {"": None}, {"a": {"b": {}}},
)  # fmt: skip
"""Values that somebody's program wrote for another."""

ODD_TEXT = (
    "\x00", "\x85", "\u2028", "\ufeff", "\r", "\x1b[2J", "\U0001f600", "a" * 10_000, "\n\n\n", '"', "{", "\\", "\t",
)  # fmt: skip
"""What text should not hold, and does."""
ODD_WORDS = (
    "", "-", "--", "-1", "0", "1e999", "nan", str(2**70), "\x1b[31m", "[/b]", "a" * 3000, "\ud800", "日本", "/", ".",
    "~", "a,b", ",", "a+", "+", "W4A16", "W9A9", "W4A16g", "wikitext2:0", "wikitext2:-1", "wikitext2:x", "@", ":",
)  # fmt: skip
"""What somebody types by mistake, or a script does."""


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes overwritten, a piece cut out, doubled or moved, the end lost, or nothing like it."""
    data = bytearray(content)
    kind = rng.choice(("flip", "flip", "overwrite", "cut", "double", "truncate", "insert", "zero", "random"))
    at = rng.randrange(len(data)) if data else 0
    size = rng.choice((1, 2, 8, 64, 1000))
    match kind:
        case "flip":
            data[at] ^= 1 << rng.randrange(8)
        case "overwrite":
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        case "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        case "cut":
            del data[at : at + size]
        case "double":
            data[at:at] = data[at : at + size]
        case "insert":
            data[at:at] = rng.randbytes(size)
        case "truncate":
            del data[at:]
        case "random":
            data = bytearray(rng.randbytes(rng.choice((0, 1, 7, 8, 200))))
    return bytes(data)


def of_tree(tree: Any, rng: random.Random) -> Any:
    """One to three places of a JSON value: gone, renamed, doubled, another's, or odd."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        match rng.choice(("odd", "odd", "odd", "delete", "rename", "other", "wrap", "number")):
            case "odd":
                holder[key] = rng.choice(ODD)
            case "delete":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[f"{key}_"] = holder.pop(key)
            case "other":
                from_holder, from_key = rng.choice(places)
                try:
                    holder[key] = copy.deepcopy(from_holder[from_key])
                except (KeyError, IndexError):  # the place is gone by now
                    holder[key] = None
            case "wrap":
                holder[key] = [holder[key]]
            case _ if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * rng.choice((2, -1, 0, 0.5, 1000))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key of a tree, its lists from the end so that a deletion moves none that is yet to come."""
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))[::-1]
        for key in keys[:200]:
            yield tree, key
            yield from _places(tree[key])


def of_json(content: bytes, rng: random.Random) -> bytes:
    """Mostly a JSON file of other content, now and then one that is none."""
    kind = rng.random()
    if kind < 0.15:
        return of_bytes(content, rng)
    if kind < 0.2:
        depth = rng.choice((100, 100_000))
        return b"[" * depth + b"]" * depth
    return json.dumps(of_tree(json.loads(content), rng)).encode()


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The header's length, the header, or the numbers."""
    kind = rng.random()
    length = int.from_bytes(content[:8], "little")
    if kind < 0.4:  # the numbers
        at = 8 + length + rng.randrange(len(content) - 8 - length)
        data = bytearray(content)
        data[at] ^= 1 << rng.randrange(8)
        return bytes(data)
    if kind < 0.5:
        return rng.choice((0, 1, length - 1, length + 1, 2**32, 2**64 - 1)).to_bytes(8, "little") + content[8:]
    if kind < 0.6:
        return of_bytes(content, rng)
    header = json.dumps(of_tree(json.loads(content[8 : 8 + length]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def of_gguf(content: bytes, rng: random.Random) -> bytes:
    """Its head, mostly: counts, types and lengths in the first kilobytes decide how all else is read."""
    data = bytearray(content)
    if rng.random() < 0.3:
        return of_bytes(content, rng)
    at = rng.randrange(4, min(len(data) - 8, 6000))
    value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, rng.randrange(2**16)))
    width = rng.choice((1, 4, 8))
    data[at : at + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(data)


def of_text(content: str, rng: random.Random) -> bytes:
    """Text with what text should not hold."""
    at = rng.randrange(len(content) + 1)
    if rng.random() < 0.4:
        return of_bytes(content.encode(), rng)
    return (content[:at] + rng.choice(ODD_TEXT) + content[at:]).encode()


def of_row(row: tuple[Any, ...], rng: random.Random) -> tuple[Any, ...]:
    """A row of a table: a column of another kind, or its JSON changed."""
    values = list(row)
    at = rng.randrange(len(values))
    if isinstance(values[at], str) and values[at].startswith(("{", "[")) and rng.random() < 0.8:
        text = json.dumps(of_tree(json.loads(values[at]), rng))
        values[at] = text.encode().decode("utf-8", "replace")
    else:
        values[at] = rng.choice((None, 0, -1, 2**62, 1.5, "", "x", "\x1b[31m[/b]", b"\xff\x00", "[1]", "{}"))
    return tuple(values)


def of_words(words: list[str], rng: random.Random) -> list[str]:
    """A command line with a word wrong, missing or doubled."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(words) + 1)
        match rng.choice(("replace", "replace", "insert", "delete", "double")):
            case "replace" if at < len(words):
                words[at] = rng.choice(ODD_WORDS)
            case "insert":
                words.insert(at, rng.choice(ODD_WORDS))
            case "delete" if len(words) > 1:
                del words[at % len(words)]
            case _:
                words.insert(at, rng.choice(words))
    return words


Mutation = Callable[[bytes, random.Random], bytes]
