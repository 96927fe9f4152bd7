"""Shared by all contracts: the error, the outcome, and checks of single promises."""

from __future__ import annotations

from dataclasses import dataclass


class ContractError(AssertionError):
    """A plug-in violates its contract."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of checking a plug-in's contract on one case.

    Attributes:
        refusal: The reason it gave for refusing the case; None if it did not refuse.
        notes: Its remarks.
    """

    refusal: str | None
    notes: tuple[str, ...] = ()


def demand(kept: bool, promise: str) -> None:
    """Raise `ContractError` with the promise unless it is kept."""
    if not kept:
        raise ContractError(promise)


def demand_described(plugin: object, *attributes: str) -> None:
    """Demand that each of these attributes is one line of text."""
    for attribute in attributes:
        text = getattr(plugin, attribute, None)
        demand(isinstance(text, str) and "\n" not in text, f"{attribute} is one line of text; got {text!r}")
