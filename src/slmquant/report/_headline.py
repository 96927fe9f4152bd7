"""The headline of a section."""

from __future__ import annotations

from slmquant.analysis.difference import Difference
from slmquant.report._columns import BYTES_PER_MB, perplexity
from slmquant.report._sections import Cell, Section

SMALL_LOSS = 0.15
"""The headline names the smallest cell whose perplexity rises by less than this share, at the upper end of its
interval. The headline says "keeps" only of a cell that is equivalent to full precision."""

NBSP = "\N{NO-BREAK SPACE}"


def headline(section: Section) -> str:
    """One sentence about the smallest cell with a small loss, else about the cell with the least loss."""
    chosen = _chosen(section)
    if chosen is None:
        return f"{section.model}: nothing measured yet"
    reference = section.reference
    value, full_value = perplexity_of(chosen, section), perplexity_of(reference, section) if reference else None
    size, full_size = _megabytes(chosen), _megabytes(reference) if reference else None
    where = f"At {size:.0f}{NBSP}MB" if size is not None else "Best of all"
    where += f" instead of {full_size:.0f}{NBSP}MB" if full_size is not None and chosen is not reference else ""
    if value is None:
        cells = f"{len(section.quantized)} quantized cell{'s' * (len(section.quantized) != 1)}"
        return f"{cells}, but no text among the tasks: accuracies alone do not show which is closest to full precision"
    if full_value is None or chosen is reference:
        return f"{where}, {chosen.name} has a perplexity of {perplexity(value)}"
    against = f"perplexity at {perplexity(value)} against {perplexity(full_value)} in full precision"
    change = _change(chosen, section, value / full_value - 1)
    verdict = loss.verdict if (loss := _loss(chosen, section)) else "cannot tell"
    if verdict == "equivalent":
        return f"{where}, {chosen.name} keeps {against} ({change})"
    raised = f"raises perplexity to {perplexity(value)} from {perplexity(full_value)} ({change})"
    if verdict == "worse":
        return f"{where}, {'' if _is_small(chosen, section) else 'even '}{chosen.name} {raised}"
    return f"{where}, {chosen.name} has {against} ({change})"


def _change(cell: Cell, section: Section, change: float) -> str:
    """`+9.8 %, 95 % interval +6.2 to +13.6`."""
    loss = _loss(cell, section)
    if loss is None or loss.interval is None or not loss.a:
        return f"{change:+.1%}, no interval".replace("%", " %")
    low, high = (100 * end / loss.a for end in (loss.interval.low, loss.interval.high))
    return f"{100 * change:+.1f} %, 95 % interval {low:+.1f} to {high:+.1f}"


def _loss(cell: Cell, section: Section) -> Difference | None:
    """The perplexity of a cell compared with full precision, on the first text."""
    for standing in section.standings:
        if standing.metric == "perplexity" and section.texts and standing.task == section.texts[0]:
            return standing.against_reference.get(cell.record.cell_id)
    return None


def _is_small(cell: Cell, section: Section) -> bool:
    loss = _loss(cell, section)
    return bool(loss and loss.a and loss.interval and loss.interval.high <= SMALL_LOSS * loss.a)


def _chosen(section: Section) -> Cell | None:
    close = []
    for cell in section.quantized:
        value, size = perplexity_of(cell, section), _megabytes(cell)
        if value is not None and size is not None and _is_small(cell, section):
            close.append((round(size), value, cell))  # sizes as displayed, in megabytes
    if close:
        return min(close, key=lambda choice: choice[:2])[2]
    return next(iter(section.quantized), section.reference)


def perplexity_of(cell: Cell, section: Section) -> float | None:
    """The perplexity of a cell on the first text, or None."""
    metric = cell.record.metric("perplexity", section.texts[0]) if section.texts else None
    return metric.value if metric else None


def _megabytes(cell: Cell) -> float | None:
    metric = cell.record.metric("stored_bytes")
    return metric.value / BYTES_PER_MB if metric else None
