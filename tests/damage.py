"""Damage to files, as disks and interrupted writes do it."""

from __future__ import annotations

from pathlib import Path


def damage(file: Path, at: int | None = None) -> None:
    """Flip a bit of the byte `at`; with None, cut off the second half of the file."""
    content = bytearray(file.read_bytes())
    if at is None:
        del content[len(content) // 2 :]
    else:
        content[at] ^= 1
    file.write_bytes(content)
