"""Prints an answer of `slmquant recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from slmquant.cli._output import print_json, print_table, say

if TYPE_CHECKING:
    from slmquant.recommendation.answer import Answer, Figure, Option

_HEADS = (
    "", "method", "scheme", "MB", "KL", "of the first", "P(best)", "keeps", "tokens/s", "memory MB", "min to make",
)  # fmt: skip
_LISTED = 4
"""Labels that are printed of candidates with one thing in common."""


def print_answer(answer: Answer, json: bool) -> None:
    """Print an answer."""
    if json:
        print_json({"id": answer.id, **answer.model_dump(mode="json")})
        return
    question = answer.question
    rows = [_row(place, one) for place, one in enumerate(answer.options, start=1)]
    used = [place for place in range(len(_HEADS)) if place == 0 or any(row[place] for row in rows)]
    say(_title(answer))
    if rows:
        print_table("", [_HEADS[p] for p in used], [[row[p] for p in used] for row in rows])
    if answer.further:
        say(f"and {answer.further} more that fit")
    if answer.nearest is not None:
        _print_nearest(answer)
    if answer.options:
        say(f"\n1: {answer.options[0].why}")
    for line in answer.advice:
        say(line)
    _print_out(answer)
    if any(ruled.by == "--minutes" for ruled in answer.ruled_out):
        say("more --minutes would go on from here: what was measured is in the store")
    for remark in answer.remarks:
        say(remark)
    first = answer.options[0] if answer.options else None if answer.nearest is None else answer.nearest.option
    if first is not None:
        say(f"\nto make it: {first.command}")
    again = f"slmquant recommend {answer.id[:8]} --show"
    say(f"answer {answer.id[:8]} of {question.model}; again: {again}")


def _title(answer: Answer) -> str:
    from slmquant.recommendation.question import option, written

    question = answer.question
    asked = ", ".join(f"{option(name)} {written(name, value)}" for name, value in question.constraints.asked.items())
    on = "" if question.engine is None else f" on {question.engine}"
    compared = f"; compared on {answer.compared_on}" if answer.compared_on else ""
    return f"{question.model}{on}: {asked}{compared}"


def _row(place: int, one: Option) -> tuple[str, ...]:
    return (
        f"{place}{'' if one.may_be_best else ' worse'}",
        one.candidate.method,
        one.candidate.scheme,
        "" if one.size_bytes is None else f"{one.size_bytes / 1e6:.1f}",
        _figure(one.divergence, ".3g"),
        _figure(one.against_first, ".2f"),
        "" if one.probability_best is None else f"{one.probability_best:.0%}",
        _figure(one.kept, ".1%"),
        "" if one.tokens_per_second is None else f"{one.tokens_per_second:.1f}",
        "" if one.memory_bytes is None else f"{one.memory_bytes / 1e6:.0f}",
        "" if one.make_minutes is None else f"{one.make_minutes:.1f}",
    )


def _figure(figure: Figure | None, form: str) -> str:
    if figure is None:
        return ""
    if figure.low is None or figure.high is None:
        return format(figure.value, form)
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def _print_nearest(answer: Answer) -> None:
    from slmquant.recommendation.question import option, written

    nearest = answer.nearest
    if nearest is None:
        return
    label = f"{nearest.option.candidate.method} {nearest.option.candidate.scheme}"
    say(f"\nnothing fits; {label} comes closest:")
    for miss in nearest.misses:
        has, asked = written(miss.constraint, miss.has), written(miss.constraint, miss.asked)
        say(f"  {option(miss.constraint)}: it has {has}, and {asked} is asked")
    if answer.binding:
        say(f"without {' or without '.join(map(option, answer.binding))} something would fit")
    else:
        say("no constraint alone is in the way: several are missed by every candidate")


def _print_out(answer: Answer) -> None:
    """Print what was ruled out and what could not be judged, a line for each reason."""
    if answer.ruled_out:
        say("\nruled out:")
    for by, several in groupby(answer.ruled_out, key=lambda ruled: ruled.by):
        ruled = list(several)
        reasons: dict[str, list[str]] = {}
        for one in ruled:
            reasons.setdefault(one.reason, []).append(one.label)
        shown = [f"{_few(labels)} ({reason})" for reason, labels in reasons.items()]
        say(f"  {len(ruled)} by {by}: {_few(shown)}")
    for lacks, unjudged in groupby(sorted(answer.lacking, key=lambda one: one.lacks), key=lambda one: one.lacks):
        say(f"not judged, as {lacks} is not known: {_few([one.label for one in unjudged])}")


def _few(texts: Sequence[str]) -> str:
    """The first texts, and how many more there are."""
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")
