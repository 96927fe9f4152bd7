"""`slmquant schemes`: explain scheme names, with examples."""

from __future__ import annotations

from slmquant.cli._output import JsonOption, console, print_json, print_table, say


def command(json: JsonOption = False) -> None:
    """Show the grammar of scheme names and typical examples, and whether each can be used today.

    Example: [dim]slmquant schemes[/dim]
    """
    from slmquant import methods
    from slmquant.schemes import EXAMPLES, grammar, parse

    rtn = methods.load("rtn")
    rows = [
        {"scheme": name, "meaning": meaning, "refused": rtn.refusal(parse(name))} for name, meaning in EXAMPLES.items()
    ]
    if json:
        print_json(rows)
        return
    say((grammar.__doc__ or "").strip())
    console.print()
    print_table(
        "Examples",
        ("scheme", "meaning", "usable"),
        [(str(r["scheme"]), str(r["meaning"]), "not yet" if r["refused"] else "yes") for r in rows],
    )
