"""What all contracts share: the error, and how a promise is demanded."""

from __future__ import annotations

from dataclasses import dataclass


class ContractError(AssertionError):
    """A plug-in broke its promise."""


@dataclass(frozen=True)
class Outcome:
    """What came of holding a plug-in to its contract.

    Attributes:
        refusal: The reason it gave for refusing the case; None if it took the case.
        notes: Remarks it made.
    """

    refusal: str | None
    notes: tuple[str, ...] = ()


def demand(kept: bool, promise: str) -> None:
    """Raise `ContractError` with the promise unless it was kept."""
    if not kept:
        raise ContractError(promise)


def demand_described(plugin: object, *attributes: str) -> None:
    """Demand that each of these attributes is a text on one line."""
    for attribute in attributes:
        text = getattr(plugin, attribute, None)
        demand(isinstance(text, str) and "\n" not in text, f"{attribute} is one line of text; got {text!r}")
