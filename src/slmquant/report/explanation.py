"""Tables of an explanation, for the terminal."""

from __future__ import annotations

from slmquant.analysis.explained import BucketFigures, FamilyFigures, bucket_figures, family_figures, whole_of
from slmquant.report.experiments import ExperimentTable, conditions, nats, percent, with_interval
from slmquant.store.explanations import Aspect, Context, Explanation, Family

_FAMILIES: dict[Family, str] = {
    "operands": "by operand",
    "classes": "by class of linears",
    "depth": "by depth",
}
_ASPECTS: dict[Aspect, str] = {
    "token read": "by the token read last",
    "rarity": "by how rare the token read last is",
    "position": "by position in the window",
    "reference": "by the probability that full precision gives its first choice",
}


def explanation_tables(explanation: Explanation) -> list[ExperimentTable]:
    """All tables: what the divergence comes from, where it shows, and the worst predictions."""
    found = [_family(one) for one in family_figures(explanation)]
    found += [_aspect(aspect, several) for aspect, several in bucket_figures(explanation).items()]
    return [*found, _worst(explanation)]


def headline(explanation: Explanation) -> str:
    """The cell, its divergence, and what it was measured on."""
    none = sum(map(sum, explanation.none)) / sum(map(len, explanation.none))
    return (
        f"{explanation.model}/{explanation.method}/{explanation.scheme}: {with_interval(whole_of(explanation), nats)} "
        f"nats per token; {nats(none)} with nothing rounded. {conditions(explanation)}"
    )


def _family(found: FamilyFigures) -> ExperimentTable:
    rows = [(one.name, with_interval(one.alone, percent), with_interval(one.recovered, percent)) for one in found.parts]
    total = ("sum", with_interval(found.sum_alone, percent), with_interval(found.sum_recovered, percent))
    heads = ("rounded", "alone, of the whole", "recovered if given back")
    return ExperimentTable(f"what it comes from, {_FAMILIES[found.family]}", heads, [*rows, total])


def _aspect(aspect: Aspect, found: tuple[BucketFigures, ...]) -> ExperimentTable:
    rows = [
        (one.name, percent(one.predictions), with_interval(one.share, percent), with_interval(one.mean, nats))
        for one in found
    ]
    heads = ("predictions", "share of predictions", "share of the divergence", "mean, nats")
    return ExperimentTable(f"where it shows, {_ASPECTS[aspect]}", heads, rows)


def _worst(explanation: Explanation) -> ExperimentTable:
    heads = ("nats", "after", "comes", "full precision says", "quantized says")
    return ExperimentTable("the predictions that diverge most", heads, [_row(one) for one in explanation.worst])


def _row(one: Context) -> tuple[str, ...]:
    return (
        f"{one.divergence:.1f}",
        f"...{_inline(one.text)}",
        _inline(one.next),
        f"{_inline(one.reference.token)} ({one.reference.probability:.2f})",
        f"{_inline(one.quantized.token)} ({one.quantized.probability:.2f})",
    )


def _inline(text: str) -> str:
    return text.replace("\n", "⏎")
