"""Principles and their verdicts, for the terminal and as words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from slmquant.analysis.intervals import Interval
from slmquant.boundary import printable
from slmquant.principles.common.contract import Prediction, Scale
from slmquant.principles.common.decisions import Decision
from slmquant.principles.common.verdicts import InModel, Judged
from slmquant.report._columns import ABSENT, p_value
from slmquant.report.terminal import plain

HEADS = ("principle", "rule", "verdict", "evidence [95 %], p by Holm")
"""Columns of the summary."""

_STYLES = {"holds": "green", "fails": "red", "cannot tell": "dim"}
_ID_DIGITS = 8


def effect_words(scale: Scale, effect: float | None, interval: Interval | None) -> str:
    """`× 0.81 [0.78, 0.84]` for a factor, `0.004 [0.003, 0.005] nats`, or a plain number."""
    if effect is None:
        return ABSENT
    ends = () if interval is None else (interval.low, interval.high)
    value, *ends_text = (_number(scale, one) for one in (effect, *ends))
    around = f" [{', '.join(ends_text)}]" if ends_text else ""
    return f"{'× ' if scale == 'logarithm' else ''}{value}{around}{' nats' if scale == 'nats' else ''}"


def prediction_words(scale: Scale, prediction: Prediction) -> str:
    """What is predicted, with the margin in the unit of the effect."""
    return f"{prediction.effect}: {prediction.side} {effect_words(scale, prediction.margin, None)}"


def decision_words(decision: Decision) -> str:
    """`prefer gptq; weights in 4 bits: because ...`, or what a note tells."""
    if decision.action == "note":
        return decision.why
    low, high = decision.embedding_share
    models = "" if (low, high) == (0, 1) else f", of models with {100 * low:.0f} to {100 * high:.0f} % in embeddings"
    return f"{decision.action} {decision.candidates}{models}: {decision.why}"


def verdict_words(judged: Judged) -> str:
    """The verdict, and where it failed."""
    where = f" in {', '.join(judged.failed_in)}" if judged.failed_in else ""
    return f"{judged.verdict}{where}"


def summary(principles: Sequence[Judged]) -> list[tuple[str, str, str, str]]:
    """A row of `HEADS` for each principle, with a line of evidence for each model that has some."""
    return [
        (
            judged.name,
            judged.principle.rule,
            verdict_words(judged),
            "\n".join(
                f"{of_model.model}: {evidence_words(of_model, judged.principle.evidence.scale)}"
                for of_model in judged.models
                if of_model.effect is not None
            )
            or "none",
        )
        for judged in principles
    ]


def evidence_words(of_model: InModel, scale: Scale) -> str:
    """Effect, number of windows and p in one model."""
    found = of_model.found
    effect = effect_words(scale, of_model.effect, of_model.interval)
    p = p_value(of_model.p_corrected)
    return f"{effect}, {found.n} {found.counted}, p {p if p.startswith('<') else f'= {p}'}"


def principles_table(principles: Sequence[Judged]) -> RenderableType:
    """The summary as a table; the rule stands below the name."""
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_lines=True)
    table.add_column("principle", ratio=5)
    table.add_column("verdict", ratio=2, min_width=len("cannot tell"))
    table.add_column("evidence [95 %], p by Holm", ratio=5)
    for judged, (name, rule, verdict, evidence) in zip(principles, summary(principles), strict=True):
        table.add_row(
            Text.assemble((printable(name), "bold"), "\n", printable(rule)),
            Text(printable(verdict), style=_STYLES[judged.verdict]),
            Text(printable(evidence, keep="\n"), style="" if judged.verdict != "cannot tell" else "dim"),
        )
    return table


def principle_report(judged: Judged) -> RenderableType:
    """Everything about one principle: what it predicts, its verdict in each model, evidence, what follows."""
    principle = judged.principle
    scale = principle.evidence.scale
    parts: list[RenderableType] = [
        Text.assemble((printable(judged.name), "bold cyan"), "  ", (printable(principle.rule), "bold")),
        Text.assemble("verdict  ", (printable(verdict_words(judged)), _STYLES[judged.verdict])),
        Text(printable(f"predicts  {prediction_words(scale, principle.prediction)}")),
        Text(printable(f"source  {principle.source}"), style="dim"),
    ]
    for of_model in judged.models:
        parts += _model_parts(of_model, scale)
    for of_model, finding in judged.exceptions:
        where = f"{finding.label} on {finding.task}"
        parts.append(Text(printable(f"against the rule: {where} ({of_model.model})"), style="yellow"))
    parts += [Text(printable(f"follows: {decision_words(decision)}")) for decision in judged.follows]
    return Group(*parts)


def _model_parts(of_model: InModel, scale: Scale) -> list[RenderableType]:
    found = of_model.found
    words = of_model.verdict if found.estimate is None else f"{of_model.verdict}; {evidence_words(of_model, scale)}"
    words += f"; about {of_model.n_needed:,} {found.counted} would tell" if of_model.n_needed else ""
    origin = f" ({of_model.provenance})" if of_model.provenance else ""
    heading = Text.assemble("\n", (printable(of_model.model), "bold"), (printable(origin), "dim"), f"  {words}")
    parts: list[RenderableType] = [heading]
    if found.findings:
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for head in ("evidence", "on", "cells", "effect [95 %]", "n"):
            table.add_column(head)
        for finding in found.findings:
            table.add_row(
                plain(finding.label),
                plain(finding.task),
                " ".join(cell[:_ID_DIGITS] for cell in finding.cells),
                effect_words(scale, finding.effect, finding.interval),
                str(finding.n),
            )
        parts.append(table)
    parts += [Text(printable(f"left out: {remark}"), style="dim") for remark in found.remarks]
    for lack in found.needs:
        parts += [Text(printable(f"missing: {lack.cells}")), Text(printable(f"    {lack.command}"), style="dim")]
    return parts


def _number(scale: Scale, value: float) -> str:
    return f"{math.exp(value):.2f}" if scale == "logarithm" else f"{value:.4f}" if scale == "nats" else f"{value:.2f}"
