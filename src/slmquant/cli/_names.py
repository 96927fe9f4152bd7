"""Lists of names in one option."""

from __future__ import annotations

import typer


def split_names(names: str) -> list[str]:
    """The names of a comma-separated list.

    Raises:
        BadParameter: There is none.
    """
    parts = [name.strip() for name in names.split(",") if name.strip()]
    if not parts:  # probably an unset shell variable, not a wish for the defaults
        raise typer.BadParameter(f"{names!r} is empty; write comma-separated names, or leave the option out")
    return parts
