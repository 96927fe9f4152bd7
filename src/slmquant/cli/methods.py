"""`slmquant methods`: how numbers can be found."""

from __future__ import annotations

from slmquant.cli._output import JsonOption, print_json, print_table


def command(json: JsonOption = False) -> None:
    """List the quantization methods, with what each needs and where it comes from.

    Methods combine: [bold]smoothquant+gptq[/bold] applies the transforms of both and rounds as the last one does.

    Example: [dim]slmquant methods --json[/dim]
    """
    from slmquant import methods

    recipes = {name: methods.load(name) for name in methods.names()}
    rows = [
        {
            "method": name,
            "title": recipe.title,
            "summary": recipe.summary,
            "transforms": [type(part).__name__ for part in recipe.transforms],
            "rounding": type(recipe.rounding).__name__ if recipe.rounding else None,
            "needs": sorted(recipe.needs),
            "reference": recipe.reference or None,
        }
        for name, recipe in recipes.items()
    ]
    if json:
        print_json(rows)
        return
    print_table(
        "Methods",
        ("method", "what it does", "calibration", "source"),
        [(name, r.summary, ", ".join(sorted(r.needs)) or "none", r.reference) for name, r in recipes.items()],
    )
