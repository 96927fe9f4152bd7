"""Tables of a ladder of random-weight models, for the terminal and for documents."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from slmquant.analysis.fixed_parts import Fixed, FixedParts
from slmquant.analysis.ladder import Gain, Ladder, OnEngine, Quantity, ladder
from slmquant.errors import StoreError
from slmquant.report._document_cells import ABSENT, markdown
from slmquant.report.experiments import ExperimentTable, percent, times, with_interval
from slmquant.store.jsonlines import read_cells

_QUANTITIES: Mapping[Quantity, tuple[str, str]] = {
    "decode": ("how much faster a token is decoded", "times as fast"),
    "prefill": ("how much faster a prompt is read", "times as fast"),
    "memory": ("how much less memory it takes", "times less"),
}
"""Quantity → the title of its table, and of the column of its ratio."""


def ladder_tables(found: Ladder) -> dict[str, ExperimentTable]:
    """All tables, by `kind ENGINE`: `speeds`, `decode`, `prefill`, `memory`, `fixed`.

    The name of an engine that ran on several machines is followed by the machine.
    """
    often = Counter(one.engine for one in found.engines)
    tables = {}
    for one in found.engines:
        name = one.engine if often[one.engine] == 1 else f"{one.engine} on {one.machine}"
        tables[f"speeds {name}"] = _speeds(one)
        for quantity in _QUANTITIES:
            if any(gain.quantity == quantity for gain in one.gains):
                tables[f"{quantity} {name}"] = _gains(one, quantity)
        if one.times is not None and one.memory is not None:
            tables[f"fixed {name}"] = _fixed(one, one.times, one.memory)
    return tables


def document_ladder(path: Path, wanted: str) -> str:
    """A table of published cells for a document, as `ladder_tables` names it.

    Raises:
        StoreError: The file cannot be read, holds no such cells, or there is no such table.
    """
    records, items = read_cells(path)
    tables = ladder_tables(ladder(records, items.__getitem__))
    if wanted not in tables:
        raise StoreError(f"no table {wanted!r} of the ladder in {path}; expected {', '.join(tables)}")
    table = tables[wanted]
    return markdown(table.heads, table.rows) + "".join(f"\n{line}\n" for line in table.lines)


def _speeds(one: OnEngine) -> ExperimentTable:
    rows = [
        (
            file.size,
            f"{file.parameters / 1e6:.1f}",
            percent(file.embedding_share),
            str(file.bits),
            _mega(file.weight_bytes),
            _mega(file.file_bytes),
            f"{1 / statistics.geometric_mean(file.decode_s):.1f}",
            f"{1 / statistics.geometric_mean(file.prefill_s):.0f}",
            _mega(file.memory_bytes),
            f"{file.load_s:.2f}",
        )
        for file in one.files
    ]
    heads = (
        "size", "M parameters", "in embeddings", "bits", "weights, MB", "file, MB", "decode, tokens/s",
        "prefill, tokens/s", "memory, MB", "load, s",
    )  # fmt: skip
    rounds = {len(file.decode_s) for file in one.files}
    remarks = [f"{remark}." for remark in one.remarks]
    lines = [
        f"Random weights in the shapes of small models, on {one.machine}; means over "
        f"{' or '.join(map(str, sorted(rounds)))} rounds, in which the widths of a size take turns. Memory: the peak "
        "while tokens are fed and decoded, less the empty process.",
    ]
    return ExperimentTable(f"{one.engine}: speed and memory", heads, rows, [*(lines if rows else ()), *remarks])


def _gains(one: OnEngine, quantity: Quantity) -> ExperimentTable:
    gains = [gain for gain in one.gains if gain.quantity == quantity]
    shares = {file.size: file.embedding_share for file in one.files}
    title, ratio = _QUANTITIES[quantity]
    rows = [
        (
            gain.size,
            percent(shares[gain.size]),
            str(gain.bits),
            times(gain.ideal),
            with_interval(gain.measured, times),
            with_interval(gain.realised, percent),
            gain.verdict if gain.why is None else f"{gain.verdict}: {gain.why}",
        )
        for gain in gains
    ]
    heads = ("size", "in embeddings", "bits", "bytes shrink, times", ratio, "of the ideal gain", "verdict")
    lines = [_answer(gains), "Against 16 bits in the same engine. Intervals hold for all rows together."]
    return ExperimentTable(f"{one.engine}: {title}", heads, rows, lines)


def _answer(gains: Sequence[Gain]) -> str:
    """What fewest bits realise over all sizes, in a sentence."""
    fewest = min(gain.bits for gain in gains)
    realised = [gain.realised.value for gain in gains if gain.bits == fewest]
    if len(realised) == 1:
        return f"Of the ideal gain, {fewest} bits realise {percent(realised[0])}."
    return f"Of the ideal gain, {fewest} bits realise {percent(min(realised))} to {percent(max(realised))}."


def _fixed(one: OnEngine, times: FixedParts, memory: FixedParts) -> ExperimentTable:
    caches = {file.size: file.cache_bytes for file in one.files}
    rows = [
        _fixed_row(time, of_memory, caches[time.size])
        for time, of_memory in zip(times.sizes, memory.sizes, strict=True)
    ]
    heads = (
        "size", "token at 16 bits, ms", "fixed, ms", "of the time", "weights are read at, GB/s",
        "memory at 16 bits, MB", "KV cache, MB", "runtime's own, MB", "of the memory",
    )  # fmt: skip
    lines = [
        "What would be left if weights had no bytes: a line through the widths of each size, off which a point lies by "
        f"{percent(times.error)} in time and {percent(memory.error)} in memory. Below 0: fewer bits gain more than "
        "their bytes. KV cache: in 16 bits, by arithmetic; what an engine takes beyond it counts as its own. Intervals "
        "hold for all sizes together.",
    ]
    return ExperimentTable(f"{one.engine}: what no bit width saves", heads, rows, lines)


def _fixed_row(time: Fixed, memory: Fixed, cache: float) -> tuple[str, ...]:
    return (
        time.size,
        f"{1e3 * time.whole:.2f}",
        with_interval(time.fixed, lambda seconds: f"{1e3 * seconds:.2f}"),
        with_interval(time.share, percent),
        f"{1e-9 / time.per_byte.value:.1f}" if time.per_byte.value > 0 else ABSENT,
        _mega(memory.whole),
        _mega(cache),
        with_interval(memory.fixed, lambda size: _mega(size - cache)),
        with_interval(memory.share, percent),
    )


def _mega(size: float) -> str:
    return f"{size / 1e6:.1f}"
