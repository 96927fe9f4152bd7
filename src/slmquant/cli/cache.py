"""`slmquant cache`: show, verify and clean the results that cells and runs share."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json, print_table, say, shown, tell

if TYPE_CHECKING:
    from slmquant.cache.upkeep import Item

SHOWN_DIGITS = 8
"""Digits of an entry's key that are printed."""

group = typer.Typer(rich_markup_mode="rich", invoke_without_command=True)


@group.callback()
def show(context: typer.Context, json: JsonOption = False) -> None:
    """Show what the cache holds, for which model, its size and when it was last used.

    The cache has what cells and runs share: statistics of calibration, states and texts of the full-precision model,
    measured choices, models converted from GGUF. Every entry has checksums: a damaged one is never used, but computed
    again. Above SLMQUANT_CACHE_LIMIT (20GB) the least recently used are removed. Pulled models and downloaded packages
    lie in the same folder, but are removed only by name.

    For example:

    [dim]slmquant cache[/dim]

    [dim]slmquant cache clean --older-than 30d[/dim]

    [dim]slmquant cache clean reference precision[/dim]
    """
    if context.invoked_subcommand is not None:
        return
    from slmquant.boundary import size_text
    from slmquant.cache.upkeep import LIMIT, items, limit_bytes, pulled
    from slmquant.files import cache_dir

    folder, limit = cache_dir(), limit_bytes()
    found, apart = items(folder), pulled(folder)
    total = sum(item.size_bytes for item in found)
    if json:
        print_json(
            {
                "folder": str(folder),
                "limit_bytes": limit,
                "total_bytes": total,
                "entries": [_facts(item) for item in found],
                "pulled": [_facts(item) for item in apart],
            }
        )
        return
    if found:
        rows = [(_short(i), i.model or "", i.content, size_text(i.size_bytes), _time(i)) for i in found]
        print_table("Cache", ("entry", "model", "what", "size", "last used"), rows)
    say(f"{len(found)} entries, {size_text(total)} of at most {size_text(limit)} ({LIMIT}), in {folder}")
    for item in apart:
        line = f"{item.name}: {size_text(item.size_bytes)}, pulled; no cache, removed only by name"
        console.print(f"[dim]{shown(line)}[/dim]", highlight=False, soft_wrap=True)


@group.command()
def verify(json: JsonOption = False) -> None:
    """Verify the checksums of all entries; damaged ones are listed, and computed again when they are needed.

    Example: [dim]slmquant cache verify[/dim]
    """
    from slmquant.boundary import size_text
    from slmquant.cache.upkeep import damaged, items
    from slmquant.errors import CacheError
    from slmquant.files import cache_dir

    found = [item for item in items(cache_dir()) if item.is_entry or item.content.startswith("damaged")]
    wrong = list(damaged(found))
    if json:
        print_json({"entries": len(found), "damaged": [{**_facts(item), "why": why} for item, why in wrong]})
    else:
        for item, why in wrong:
            say(f"{item.name}: {why}")
    if wrong:
        names = " ".join(_short(item) for item, _ in wrong[:3]) + (" ..." if len(wrong) > 3 else "")
        raise CacheError(
            f"{len(wrong)} of {len(found)} entries are damaged; they are computed again when needed, or remove them "
            f"now: slmquant cache clean {names}"
        )
    if not json:
        tell(f"{len(found)} entries, {size_text(sum(item.size_bytes for item in found))}, all intact")


@group.command()
def clean(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these: a kind (statistics), an entry (statistics/021cdd7a), a pulled model (models/NAME).",
            metavar="WHAT...",
            show_default=False,
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Only what was not used for this long (7d, 12:00:00).")
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option("--max-bytes", help="Only the least recently used, until the rest takes this much (5GB)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries; pulled models stay.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be removed.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove entries of the cache, but none that a running process uses.

    For example:

    [dim]slmquant cache clean --max-bytes 5GB --dry-run[/dim]

    [dim]slmquant cache clean models/stories15m[/dim]
    """
    from slmquant.boundary import size_text
    from slmquant.cache.upkeep import items, pulled, read_size, trim
    from slmquant.files import cache_dir

    if not (what or everything or older_than or max_bytes):
        raise typer.BadParameter(
            "say what to remove: WHAT, --older-than, --max-bytes or --all", param_hint="slmquant cache clean"
        )
    folder = cache_dir()
    found = items(folder)
    chosen = _named(found, pulled(folder), what) if what else found
    age_s = _seconds(older_than) if older_than else -math.inf
    old = [item for item in chosen if time.time() - item.used_s >= age_s]
    excess = None
    if max_bytes:
        excess = sum(item.size_bytes for item in chosen) - read_size(max_bytes, "--max-bytes")
    removed = trim(old, excess, dry_run)
    used = [] if max_bytes else [item for item in old if item not in removed]
    if json:
        print_json({"removed": [_facts(item) for item in removed], "in_use": [_facts(item) for item in used]})
        return
    for item in removed:
        say(f"{_short(item)}  {item.model or ''}  {item.content}  {size_text(item.size_bytes)}")
    freed = size_text(sum(item.size_bytes for item in removed))
    tell(f"{'would remove' if dry_run else 'removed'} {len(removed)} of {len(chosen)} entries, {freed}")
    if used:
        names = ", ".join(map(_short, used[:3])) + (", ..." if len(used) > 3 else "")
        tell(f"in use, and kept: {len(used)} entries ({names})")


def _named(found: Sequence[Item], apart: Sequence[Item], names: Sequence[str]) -> list[Item]:
    """The items that `names` name: kinds, or entries and pulled models by name.

    Raises:
        OutputError: A name names nothing.
    """
    from slmquant.cache.upkeep import KINDS, PULLED
    from slmquant.errors import OutputError

    chosen: dict[str, Item] = {}
    for name in names:
        kind, slash, key = name.partition("/")
        if kind in PULLED and not key:
            raise OutputError(
                f"{name} is no cache: name each that is to go, e.g. {next((i.name for i in apart), 'models/NAME')}"
            )
        if kind in PULLED:
            named = [item for item in apart if item.name == name]
        else:
            named = [item for item in found if item.kind == kind and item.path.name.startswith(key)]
        if not named and (slash or kind not in KINDS):
            raise OutputError(
                f"the cache has no {name!r}; expected an entry that `slmquant cache` lists, models/NAME, or a kind: "
                f"{', '.join(KINDS)}"
            )
        chosen |= {item.name: item for item in named}
    return list(chosen.values())


def _seconds(duration: str) -> float:
    """Seconds of a duration such as `7d`.

    Raises:
        OutputError: It is not a duration.
    """
    from datetime import timedelta

    from pydantic import TypeAdapter, ValidationError

    from slmquant.errors import OutputError

    try:
        length: timedelta = TypeAdapter(timedelta).validate_python(duration)
    except ValidationError:
        raise OutputError(f"--older-than is {duration!r}; expected e.g. 7d, 12:00:00 (hours) or P1DT12H") from None
    return length.total_seconds()


def _short(item: Item) -> str:
    """Name with a shortened key, which commands accept; the whole name of what was pulled."""
    from slmquant.cache.upkeep import KINDS

    return f"{item.kind}/{item.path.name[:SHOWN_DIGITS]}" if item.kind in KINDS else item.name


def _time(item: Item) -> str:
    return f"{datetime.fromtimestamp(item.used_s):%Y-%m-%d %H:%M}"


def _facts(item: Item) -> dict[str, object]:
    return {
        "name": item.name,
        "kind": item.kind,
        "model": item.model,
        "what": item.content,
        "size_bytes": item.size_bytes,
        "last_used": datetime.fromtimestamp(item.used_s).astimezone().isoformat(timespec="seconds"),
        "folder": str(item.path),
    }
