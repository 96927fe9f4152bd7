"""`slmquant methods`: list the quantization methods, or explain one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json, print_table, say

if TYPE_CHECKING:
    from slmquant.methods.common.recipe import Recipe


def command(
    name: Annotated[str | None, typer.Argument(help="Method, or combination a+b, to explain in full.")] = None,
    json: JsonOption = False,
) -> None:
    """List the quantization methods: what each does, the data it reads, the schemes it supports, its source.

    Methods combine: [bold]smoothquant+gptq[/bold] applies the transforms of both and rounds like the last one.

    Examples:
        slmquant methods

        slmquant methods gptq
    """
    from slmquant import methods

    cards = [_card(each) for each in ([name] if name else methods.names())]
    if json:
        print_json([asdict(card) for card in cards])
    elif name is not None:
        _print_one(cards[0])
    else:
        print_table(
            "Methods",
            ("method", "what it does", "looks at", "schemes", "source"),
            [
                (
                    card.method,
                    card.summary,
                    card.looks_at,
                    f"{len(card.schemes)} of {len(card.schemes) + len(card.refused)}",
                    card.reference,
                )
                for card in cards
            ],
        )
        console.print("schemes: how many of the examples in `slmquant schemes`; `slmquant methods NAME` lists them")


@dataclass(frozen=True)
class _Card:
    """Printed facts about a method.

    Attributes:
        method: Its name, or `a+b`.
        title: Its name in the literature.
        summary: What it does, in a sentence.
        reference: The paper or code it comes from; empty for the full-precision reference.
        looks_at: The calibration data it reads, in a few words.
        learns: Whether the learning budget matters to it.
        schemes: Example schemes that it rounds to.
        refused: Other example schemes → why they are refused.
    """

    method: str
    title: str
    summary: str
    reference: str
    looks_at: str
    learns: bool
    schemes: list[str]
    refused: dict[str, str]


def _card(name: str) -> _Card:
    from slmquant import methods
    from slmquant.schemes import EXAMPLES, parse

    recipe = methods.load(name)
    refusals = {scheme: recipe.refusal(parse(scheme)) for scheme in EXAMPLES}
    return _Card(
        method=name,
        title=recipe.title,
        summary=recipe.summary,
        reference=recipe.reference,
        looks_at=_looks_at(recipe),
        learns=recipe.learns,
        schemes=[scheme for scheme, reason in refusals.items() if reason is None],
        refused={scheme: reason for scheme, reason in refusals.items() if reason is not None},
    )


def _looks_at(recipe: Recipe) -> str:
    kinds = {
        "range": "ranges",
        "hessian": "Hessians",
        "hessian_energy": "Hessians by energy",
        "hessian_importance": "Hessians by importance",
    }
    looks = [kinds[need] for need in sorted(recipe.needs, reverse=True)]
    looks += ["outputs of blocks"] if recipe.rounds_blocks else []
    looks += ["learns"] if recipe.learns else []
    return ", ".join(looks) or "no data"


def _print_one(card: _Card) -> None:
    """Print a method's documentation and the schemes it supports."""
    from slmquant import methods

    for part in card.method.split("+"):
        say(methods.documentation(part).strip())
        console.print()
    say(f"Looks at: {card.looks_at}.")
    say(f"Rounds to: {', '.join(card.schemes)}.")
    for scheme, reason in card.refused.items():
        say(f"Refuses {scheme}: {reason}.")
