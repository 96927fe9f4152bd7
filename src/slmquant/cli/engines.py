"""`slmquant engines`: list the engines that run quantized models."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from slmquant.cli._output import JsonOption, print_json, print_table


def command(json: JsonOption = False) -> None:
    """List engines: usable here or not, version, instruction sets and formats.

    Examples:
        slmquant engines
    """
    from slmquant import engines

    cards = [_card(name) for name in engines.names()]
    if json:
        print_json([asdict(card) for card in cards])
        return
    print_table(
        "Engines",
        ("engine", "usable", "version", "instructions", "formats", "what it is", "how to get it"),
        [
            (
                card.engine,
                "yes" if card.usable else "no",
                card.version or "",
                " ".join(card.instructions),
                ", ".join(card.formats),
                card.summary,
                card.reason or "",
            )
            for card in cards
        ],
    )


@dataclass(frozen=True)
class _Card:
    """Printed facts about an engine."""

    engine: str
    summary: str
    usable: bool
    version: str | None
    instructions: tuple[str, ...]
    formats: tuple[str, ...]
    reason: str | None


def _card(name: str) -> _Card:
    from slmquant import engines

    try:
        engine = engines.load(name)
    except ImportError as error:  # a broken plug-in does not hide the others
        return _Card(name, "", False, None, (), (), f"its module cannot be imported: {error}")
    status = engine.status()
    return _Card(
        engine=name,
        summary=engine.summary,
        usable=status.usable,
        version=status.version,
        instructions=status.instructions,
        formats=engine.formats,
        reason=status.reason,
    )
