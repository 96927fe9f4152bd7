"""Tables and sentences of experiments, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.operands import Contributions, contributions
from slmquant.analysis.outliers import DoseCurve, Recovery, dose_curves, recoveries
from slmquant.analysis.window_means import Figure
from slmquant.errors import StoreError
from slmquant.report._document_cells import ABSENT, markdown
from slmquant.store.experiments import OPERAND_NAMES, Arm, DoseResponse, Experiments, Factorial
from slmquant.store.explanations import Explanation
from slmquant.store.export import calibration_label

_ARMS: Mapping[Arm, str] = {
    "outliers": "outliers",
    "random": "random channels",
    "undone": "outliers, undone by the quantizer",
    "function": "outliers, nothing rounded",
}


@dataclass(frozen=True)
class ExperimentTable:
    """A table and the sentences below it.

    Attributes:
        title: Title for the terminal.
        heads: Names of the columns.
        rows: Fields of every row.
        lines: Sentences below.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[str] = ()


def tables_of(experiments: Experiments) -> dict[str, ExperimentTable]:
    """All tables, by `kind SCHEME`: `shares` and `effects` of operands, an `ablation`, `doses`."""
    tables = {}
    for factorial in experiments.factorials:
        found = contributions(factorial, experiments.samples)
        tables[f"shares {found.scheme}"] = _shares(found, factorial)
        if found.effects:
            tables[f"effects {found.scheme}"] = _effects(found)
    for ablation in experiments.ablations:
        recovered = recoveries(ablation, experiments.samples)
        tables[f"ablation {ablation.scheme}"] = _ablation(ablation.scheme, recovered)
    for response in experiments.doses:
        tables[f"doses {response.scheme}"] = _doses(response, dose_curves(response, experiments.samples))
    return tables


def conditions(experiments: Experiments | Explanation) -> str:
    """One line: model, method, text, compute dtype, machine."""
    texts = ", ".join(f"{len(one.positions)} of {one.corpus}" for one in experiments.samples)
    machine, length = experiments.environment, experiments.samples[0].length
    calibrated = f", calibrated on {calibration_label(experiments.calibration)}" if experiments.calibration else ""
    return (
        f"{experiments.model}, weights by {experiments.method}{calibrated}; windows of {length} tokens, evenly spread: "
        f"{texts}; computed in {experiments.compute_dtype} on {machine.cpu}, {machine.threads} threads. In brackets: "
        "95 % intervals; neighbouring windows correlate."
    )


def document_table(experiments: Experiments, wanted: str) -> str:
    """A table for a document, as `tables_of` names it; or the `conditions`.

    Raises:
        StoreError: There is no such table.
    """
    if wanted == "conditions":
        return conditions(experiments) + "\n"
    tables = tables_of(experiments)
    if wanted not in tables:
        raise StoreError(f"no table {wanted!r} in the experiments; expected conditions, {', '.join(tables)}")
    table = tables[wanted]
    return markdown(table.heads, table.rows) + "".join(f"\n{line}\n" for line in table.lines)


def _shares(found: Contributions, factorial: Factorial) -> ExperimentTable:
    rows = [
        (
            OPERAND_NAMES[one.operand],
            with_interval(one.alone, nats),
            with_interval(one.given_back, nats),
            with_interval(one.share, percent),
            one.verdict,
        )
        for one in sorted(found.shares, key=lambda one: -one.share.value)
    ]
    absent = [f"No cell for {OPERAND_NAMES[one]}: {reason}." for one, reason in factorial.absent.items()]
    lines = [
        f"{_answer(found)} All rounded: {with_interval(found.whole, nats)} nats per token; nothing rounded: "
        f"{nats(found.none.value)}. Operands alone sum to {with_interval(found.additivity, times)} of all. Shares are "
        "Shapley values; their intervals hold for all rows together.",
        *absent,
    ]
    heads = ("rounded", "alone, nats", "all but this, nats", "share", "verdict")
    return ExperimentTable(f"{found.scheme}: what the divergence comes from", heads, rows, lines)


def _answer(found: Contributions) -> str:
    """The main cause in a sentence."""
    if found.main is not None:
        return f"The main cause at {found.scheme}: {OPERAND_NAMES[found.main.operand]}."
    matter = [OPERAND_NAMES[one.operand] for one in found.shares if one.verdict == "matters"]
    if matter:
        return f"No operand is shown to be the main cause at {found.scheme}; these matter: {', '.join(matter)}."
    return f"These windows cannot tell what matters at {found.scheme}; measure more (--windows)."


def _effects(found: Contributions) -> ExperimentTable:
    rows = [
        (
            OPERAND_NAMES[one.operands[0]],
            f"with {OPERAND_NAMES[one.operands[1]]}" if len(one.operands) > 1 else ABSENT,
            with_interval(one.factor, times),
        )
        for one in found.effects
    ]
    heads = ("rounding", "interaction", "multiplies the divergence by")
    return ExperimentTable(f"{found.scheme}: effects on the logarithm of the divergence", heads, rows)


def _ablation(scheme: str, found: Sequence[Recovery]) -> ExperimentTable:
    rows = [
        (
            one.kept,
            f"{100 * one.share:g} %",
            with_interval(one.largest, percent),
            with_interval(one.at_random, percent),
            with_interval(one.beyond, percent),
            one.verdict,
        )
        for one in found
    ]
    heads = ("kept in 16 bits", "share", "the largest recover", "random ones recover", "difference", "verdict")
    lines = ["Of the divergence with all activations rounded. Intervals of differences hold for all rows together."]
    return ExperimentTable(f"{scheme}: what keeping channels or tokens of activations recovers", heads, rows, lines)


def _doses(response: DoseResponse, found: Sequence[DoseCurve]) -> ExperimentTable:
    doses = sorted({dose for curve in found for dose in curve.ratios})
    rows = [
        (
            curve.site,
            _ARMS[curve.arm],
            *(with_interval(curve.ratios[dose], times) if dose in curve.ratios else ABSENT for dose in doses),
            *(_slope(curve.below), _slope(curve.above)),
            *(("yes" if curve.rises else "no", curve.response) if curve.arm == "outliers" else (ABSENT, ABSENT)),
        )
        for curve in found
    ]
    heads = ("input of", "scaled", *(f"× {_dose(dose)}" for dose in doses))
    lines = [
        f"Divergence relative to that of the model as it is, with {100 * response.share:g} % of the channels of every "
        "input scaled. Slopes are those of its logarithm, per doubling. Intervals hold for all sites and "
        "doses together."
    ]
    return ExperimentTable(
        f"{response.scheme}: the divergence as channels of activations are scaled",
        (*heads, "slope below 1", "slope above 1", "rises throughout", "outliers"),
        rows,
        lines,
    )


def _slope(figure: Figure | None) -> str:
    return ABSENT if figure is None or figure.interval is None else with_interval(figure, times)


def _dose(dose: float) -> str:
    return f"{dose:g}" if dose >= 1 else f"1/{1 / dose:g}"


def with_interval(figure: Figure, write: Callable[[float], str]) -> str:
    """A figure, and in brackets its interval."""
    if figure.interval is None:
        return write(figure.value)
    return f"{write(figure.value)} [{write(figure.interval.low)}, {write(figure.interval.high)}]"


def nats(value: float) -> str:
    """A divergence."""
    return f"{value:.4f}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


def times(value: float) -> str:
    """A factor."""
    return f"{value:.2f}"
