"""The comparison of two cells, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from slmquant.analysis.difference import UNPAIRED, Difference
from slmquant.analysis.unlike import unlike_words
from slmquant.boundary import printable
from slmquant.report._columns import number, p_value
from slmquant.report.terminal import plain, span
from slmquant.store.record import Record

VERDICT_STYLES = {
    "better": "green",
    "worse": "red",
    "equivalent": "cyan",
    "cannot tell": "dim",
    "descriptive": "dim",
    "refused": "dim",
}


def comparison_report(a: Record, b: Record, differences: Sequence[Difference]) -> RenderableType:
    """The metrics of two cells side by side: tested ones with a verdict on B, then descriptive ones."""
    tested = [d for d in differences if d.endpoint is not None]
    described = [d for d in differences if d.endpoint is None]
    labels = ((printable(record.spec.label), "bold") for record in (a, b))
    title = Text.assemble(("A ", "dim"), next(labels), ("   B ", "dim"), next(labels))
    parts: list[RenderableType] = [title]
    if (words := unlike_words(a, b)) is not None:
        parts.append(Text(printable(words), style="yellow"))
    if tested:
        parts.append(_tested(tested))
        known = ((d.margin, d.endpoint) for d in tested)
        margins = dict.fromkeys(f"{margin:.3g} {_UNITS[kind]}" for margin, kind in known if margin and kind)
        rules = f"Equivalent: shown to differ by less than {' or '.join(margins)}. " if margins else ""
        rules += (
            "Smallest seen: the smallest difference that would be detected with 80 % probability on this many items.\n"
        )
        parts.append(Text(rules, style="dim"))
    if described:
        parts += [Text("Descriptive metrics, without a verdict"), _described(described)]
    if any(d.reason == UNPAIRED for d in differences):
        parts.append(Text(f"* {UNPAIRED}\n", style="dim"))
    return Group(*parts)


_UNITS = {"accuracy": "in accuracy", "perplexity": "nats of loss", "kl_mean": "nats of divergence"}


def _tested(differences: Sequence[Difference]) -> RichTable:
    table = _of_differences(("p (Holm)", "flips", "smallest seen"))
    for d in differences:
        verdict = Text(d.verdict, style=VERDICT_STYLES.get(d.verdict, ""))
        if d.verdict in ("better", "worse", "different") and d.is_within_margin:
            verdict.append(", within the margin")
        flipped = f"−{d.flips.to_wrong} +{d.flips.to_right}" if d.flips else ""
        numbers = (p_value(d.p_corrected), flipped, number(d.smallest_seen))
        table.add_row(*_cells(d), *numbers, plain(d.unit), _remarked(verdict, d))
    return table


def _described(differences: Sequence[Difference]) -> RichTable:
    table = _of_differences(())
    for d in differences:
        words = "" if d.verdict == "descriptive" else d.verdict
        verdict = Text(words, style=VERDICT_STYLES.get(d.verdict, ""))
        table.add_row(*_cells(d), plain(d.unit), _remarked(verdict, d))
    return table


def _of_differences(heads: Sequence[str]) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("task")
    for name in ("A", "B", "B − A", "95 % interval", *heads):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("B is")
    return table


def _cells(d: Difference) -> list[Text | str]:
    return [plain(d.name), plain(d.task or ""), *(number(v) for v in (d.a, d.b, d.difference)), span(d.interval)]


def _remarked(verdict: Text, d: Difference) -> Text:
    if d.reason == UNPAIRED:
        return verdict.append(" *", style="dim")
    remark = d.reason or (f"{d.pairs} pairs" if d.pairs else "")
    if remark:
        verdict.append(f"{' ' if verdict.plain else ''}({printable(remark)})", style="dim")
    return verdict
