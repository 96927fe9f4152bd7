"""Keeps the cache within a limit: lists its entries, verifies them, removes the least recently used.

Entries that a process uses stay. To keep the limit, so do entries used a few minutes ago, which one process may just
have written for another, and entries of earlier layouts, which have no leases, for a day. Pulled models and downloaded
packages are not entries.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from slmquant.cache.entries import MANIFEST, damage, discard, read_manifest
from slmquant.cache.leases import unused
from slmquant.errors import OutputError
from slmquant.files import folder_bytes, remove_leftovers

KINDS = (
    "statistics", "reference", "engine_reference", "precision", "answered", "converted", "received", "sensitivity",
    "swaps", "decode_costs", "mixtures", "sizes", "training_text", "trained",
)  # fmt: skip
"""Folders of the cache's entries."""
PULLED = ("models", "packages")
"""Folders in the cache that are no cache: what was pulled is removed only by name."""
LIMIT = "SLMQUANT_CACHE_LIMIT"
"""Environment variable of the limit."""
DEFAULT_LIMIT_BYTES = 20_000_000_000
_EARLIER_KINDS = ("fingerprints",)
_EARLIER_NAME = re.compile(r"([0-9a-f]{24}|[0-9a-f]{32}|.+-[0-9a-f]{12})(\.json|\.safetensors)?")
"""What earlier versions named their files and folders."""
_HANDED_OVER_S = 600
_EARLIER_STAYS_S = 24 * 3600
_SMALL_BYTES = 1 << 16
"""Smaller entries stay when the limit is kept: removing them would free nothing, and some are slow to measure again."""


@dataclass(frozen=True)
class Item:
    """Something in the cache folder.

    Attributes:
        path: Its file or folder.
        model: Name of its model; None if unknown.
        content: What it holds.
        size_bytes: Size of all its files.
        used_s: When it was last used, in seconds since 1970.
        is_entry: Whether it is an entry as this version writes them, neither of an earlier layout nor damaged.
    """

    path: Path
    model: str | None
    content: str
    size_bytes: int
    used_s: float
    is_entry: bool

    @property
    def name(self) -> str:
        """`KIND/KEY`, as commands take it."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.path.parent.name


def limit_bytes() -> int:
    """Size of all entries above which the least recently used are removed (`SLMQUANT_CACHE_LIMIT`).

    Raises:
        OutputError: The variable is not a size.
    """
    given = os.environ.get(LIMIT)
    return DEFAULT_LIMIT_BYTES if not given else read_size(given, LIMIT)


def read_size(text: str, what: str) -> int:
    """Bytes of a size such as `20GB`.

    Raises:
        OutputError: It is not a size; the message names `what`.
    """
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = -1
    if size < 0:
        raise OutputError(f"{what} is {text!r}; expected a size such as 20GB or 500MiB")
    return size


def items(cache_dir: Path, kinds: Sequence[str] = (*KINDS, *_EARLIER_KINDS)) -> list[Item]:
    """Everything in the cache of the given kinds, most recently used first."""
    return sorted(_items(cache_dir, kinds), key=lambda item: -item.used_s)


def pulled(cache_dir: Path) -> list[Item]:
    """Pulled models and downloaded packages, sorted by name."""
    return sorted(_items(cache_dir, PULLED), key=lambda item: item.name)


def _items(cache_dir: Path, kinds: Sequence[str]) -> Iterator[Item]:
    for kind in kinds:
        for path in (cache_dir / kind).glob("[!.]*"):
            try:
                item = _item(path)
            except OSError:  # another process has just removed it, or it is not ours to read
                continue
            if item is not None:
                yield item


def _item(path: Path) -> Item | None:
    """Facts of a path in the cache; None if slmquant did not make it.

    Raises:
        OSError: It is gone, or cannot be read.
    """
    kind, manifest = path.parent.name, path / MANIFEST
    size, used = folder_bytes(path) if path.is_dir() else path.stat().st_size, path.stat().st_mtime
    if kind in PULLED:
        return Item(path, path.name if kind == "models" else None, "pulled", size, used, is_entry=False)
    try:
        about = read_manifest(path)
        return Item(path, about.model, about.content, size, manifest.stat().st_mtime, is_entry=True)
    except (OSError, ValueError):
        if manifest.exists():
            return Item(path, None, f"damaged: {MANIFEST} cannot be read", size, used, is_entry=False)
        if _EARLIER_NAME.fullmatch(path.name):
            return Item(path, None, "of an earlier version of slmquant", size, used, is_entry=False)
        return None


def keep_limit(entry: Path) -> None:
    """Keep the cache within its limit after `entry` was written to it."""
    remove_leftovers(entry.parent)
    with suppress(FileNotFoundError):  # another process has just removed it
        if folder_bytes(entry) < _SMALL_BYTES:
            return
    found = items(entry.parent.parent)
    large = [item for item in found if item.size_bytes >= _SMALL_BYTES and item.path != entry]
    excess = sum(item.size_bytes for item in found) - limit_bytes()
    trim([item for item in large if not _recent(item)], excess)


def trim(found: Sequence[Item], excess_bytes: int | None, dry_run: bool = False) -> list[Item]:
    """Remove the least recently used of `found` until `excess_bytes` are free (None: all); those in use stay.

    Returns:
        The removed items; with `dry_run`, those that would be.
    """
    removed: list[Item] = []
    for item in sorted(found, key=lambda item: item.used_s):
        if excess_bytes is not None and sum(each.size_bytes for each in removed) >= excess_bytes:
            break
        if remove_unused(item, dry_run):
            removed.append(item)
    return removed


def remove_unused(item: Item, dry_run: bool = False) -> bool:
    """Remove an item unless a process uses it; returns whether it was, or with `dry_run` would be, removed."""
    if not item.is_entry:
        if not dry_run:
            discard(item.path)
        return True
    with unused(item.path / MANIFEST) as free:
        if free and not dry_run:
            discard(item.path)
        return free


def _recent(item: Item) -> bool:
    """Whether an item was used so recently that a process may still need it."""
    age_s = abs(time.time() - item.used_s)  # a clock that was set back must not keep an entry for years
    return age_s < (_HANDED_OVER_S if item.is_entry else _EARLIER_STAYS_S)


def damaged(found: Sequence[Item]) -> Iterator[tuple[Item, str]]:
    """The damaged entries among `found`, and what is wrong with each."""
    for item in found:
        why = damage(item.path) if (item.path / MANIFEST).exists() else None
        if why is not None:
            yield item, why
