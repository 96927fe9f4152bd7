"""Tables of an inspection, for the terminal, the page and documents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import TypeVar

from slmquant.report._columns import ABSENT, BYTES_PER_MB, significant
from slmquant.report._inspected_words import grid_words, of_layers, percent
from slmquant.store.anatomy import LayerFacts
from slmquant.store.inspected import InputFacts, Inspection, WeightFacts

__all__ = ["TABLES", "FactsTable", "readers_of", "tables_of"]

T = TypeVar("T")
Row = tuple[str, ...]


@dataclass(frozen=True)
class FactsTable:
    """A table as text.

    Attributes:
        title: What it shows.
        heads: Heads of its columns.
        rows: Its rows.
    """

    title: str
    heads: Row
    rows: Sequence[Row]


def tables_of(found: Inspection) -> dict[str, FactsTable]:
    """Every table that has rows, by its key in `TABLES`."""
    made = {key: make(found) for key, make in TABLES.items()}
    return {key: table for key, table in made.items() if table.rows}


def _sizes(found: Inspection) -> FactsTable:
    """Parameters and megabytes by role."""
    anatomy = found.anatomy
    names = [size.scheme for size in anatomy.schemes]
    rows: list[Row] = []
    for size in anatomy.roles:
        if size.role == "head" and anatomy.tied:
            rows.append(("head", "0", "tied", *("" for _ in ("share", *names))))
            continue
        share = percent(size.parameters / anatomy.parameters)
        megabytes = (f"{size.stored_bytes[name] / BYTES_PER_MB:.2f}" for name in names)
        rows.append((size.role, str(size.tensors), f"{size.parameters / 1e6:.2f}", share, *megabytes))
    total = f"{anatomy.parameters / 1e6:.2f}"
    sums = (f"{size.stored_bytes / BYTES_PER_MB:.2f}" for size in anatomy.schemes)
    rows.append(("all", str(sum(size.tensors for size in anatomy.roles)), total, percent(1.0), *sums))
    rows.append(("bits per weight", "", "", "", *(f"{size.bpw:.2f}" for size in anatomy.schemes)))
    heads = ("role", "tensors", "millions", "share", *(f"{name} MB" for name in names))
    return FactsTable("parameters and bytes", heads, rows)


def _blocks(found: Inspection) -> FactsTable:
    """How the decoder blocks are built; equal ones in one row."""
    kinds: dict[Row, list[int]] = {}
    for number, layer in enumerate(found.anatomy.layers):
        kinds.setdefault(_built(layer), []).append(number)
    heads = (
        "layers", "positions", "window", "heads", "key heads", "queries per key", "head size", "QK norm", "gate",
        "biases",
    )  # fmt: skip
    return FactsTable("decoder blocks", heads, [(of_layers(numbers), *kind) for kind, numbers in kinds.items()])


def _built(layer: LayerFacts) -> Row:
    rotary = "rotary" if layer.rotary_type in (None, "default") else f"rotary, {layer.rotary_type}"
    heads = (layer.query_heads, layer.key_heads, layer.group_size, layer.head_size)
    return (
        {"rotary": rotary, "none": "none (NoPE)", None: "no attention"}.get(layer.positions, str(layer.positions)),
        "all" if layer.window is None else f"{layer.window:,}",
        *(ABSENT if count is None else str(count) for count in heads),
        "yes" if layer.qk_norm else "no",
        "yes" if layer.gated else "no",
        ", ".join(layer.biases) or "none",
    )


def _weights(found: Inspection) -> FactsTable:
    """Figures of weights by role: the median tensor, and the worst one."""
    rows = [
        (
            role,
            str(len(members)),
            _median_and_worst(members, lambda one: one.kurtosis),
            _median_and_worst(members, lambda one: one.peak),
            _median_and_worst(members, lambda one: one.worst_column),
            str(sum(one.outlier_columns for one in members)),
            f"{min(one.low for one in members):.3g} to {max(one.high for one in members):.3g}",
        )
        for role, members in _by_role(found.weights).items()
    ]
    heads = ("role", "tensors", "kurtosis", "peak", "largest column", "outlier columns", "range")
    return FactsTable("weights: the median tensor of each role (and the worst)", heads, rows)


def _grids(found: Inspection) -> FactsTable:
    """Which weights lie on a grid already."""
    kinds: dict[str, list[WeightFacts]] = {}
    for weight in found.weights:
        if weight.lattice is not None:
            kinds.setdefault(grid_words(weight.lattice), []).append(weight)
    rows = []
    for words, members in kinds.items():
        lattices = [one.lattice for one in members if one.lattice is not None]
        rows.append(
            (
                words,
                ", ".join(dict.fromkeys(one.role for one in members)),
                str(len(members)),
                ", ".join(dict.fromkeys(one.dtype for one in members)),
                *(f"{_mean(lattices, read):.3f}" for read in (lambda x: x.fit, lambda x: x.fit_shuffled)),
                *(percent(_mean(lattices, read)) for read in (lambda x: x.ties, lambda x: x.ties_shuffled)),
            )
        )
    heads = ("on a grid", "roles", "tensors", "dtype", "fit", "shuffled", "repeated ratios", "shuffled")
    return FactsTable("grids under the weights", heads, rows)


def _inputs(found: Inspection) -> FactsTable:
    """Figures of the inputs of linears by what reads them: the median layer, and the worst."""
    rows = [
        (
            readers,
            _median_and_worst(members, lambda one: one.all.kurtosis),
            _median_and_worst(members, lambda one: one.ordinary.kurtosis),
            _median_and_worst(members, lambda one: one.all.peak),
            _median_and_worst(members, lambda one: one.ordinary.peak),
            _median_and_worst(members, lambda one: one.worst_channels[0][1]),
            f"{statistics.median(one.outlier_channels for one in members):.3g}",
            percent(statistics.median(one.first_energy for one in members)),
            f"{statistics.median(one.effective_rank for one in members):.3g} of {members[0].channels}",
        )
        for readers, members in readers_of(found).items()
    ]
    heads = (
        "read by", "kurtosis", "ordinary tokens", "peak", "ordinary tokens", "largest channel", "outlier channels",
        "energy of first token", "effective rank",
    )  # fmt: skip
    return FactsTable("inputs of linears: the median layer (and the worst)", heads, rows)


def readers_of(found: Inspection) -> dict[str, list[InputFacts]]:
    """Inputs by the roles of the linears that read them (`q, k, v`), layer by layer."""
    roles = {weight.name: weight.role for weight in found.weights}
    groups: dict[str, list[InputFacts]] = {}
    for facts in found.inputs:
        readers = ", ".join(dict.fromkeys(roles[name] for name in facts.linears))
        groups.setdefault(readers, []).append(facts)
    return groups


def _layers(found: Inspection) -> FactsTable:
    """Residual stream and attention, layer by layer."""
    attention = {facts.layer: facts for facts in found.attention}
    inputs = {layer: list(facts) for layer, facts in groupby(found.inputs, key=lambda one: one.layer)}
    rows = []
    for stream in found.stream:
        sinks, reads = attention.get(stream.layer), inputs.get(stream.layer, [])
        rows.append(
            (
                str(stream.layer),
                *(significant(value) for value in stream.top[:1]),
                significant(stream.median),
                significant(stream.top[0] / stream.median) if stream.median > 0 else ABSENT,
                str(sum(one.count for one in stream.massive)),
                significant(stream.all.kurtosis),
                _worst(reads, lambda one: one.all.peak),
                _worst(reads, lambda one: one.ordinary.peak),
                str(max((one.outlier_channels for one in reads), default=0)),
                ABSENT if sinks is None else percent(sinks.mean),
                ABSENT if sinks is None else percent(max(sinks.first_share)),
                ABSENT if sinks is None else f"{sinks.sink_heads} of {len(sinks.first_share)}",
            )
        )
    heads = (
        "layer", "largest", "median", "ratio", "massive", "kurtosis", "peak of inputs", "ordinary tokens",
        "outlier channels", "attention on first", "strongest head", "sink heads",
    )  # fmt: skip
    return FactsTable(
        "residual stream behind each layer, its linears' inputs, attention on the first token", heads, rows
    )


def _massive(found: Inspection) -> FactsTable:
    """Massive activations, each channel once over all layers."""
    rows = []
    for channel in dict.fromkeys(one.channel for stream in found.stream for one in stream.massive):
        seen = [(s.layer, one) for s in found.stream for one in s.massive if one.channel == channel]
        largest = max((one for _, one in seen), key=lambda one: abs(one.value))
        rows.append(
            (
                str(channel),
                of_layers([layer for layer, _ in seen]),
                f"{largest.value:,.0f}",
                f"{largest.times_median:,.0f}",
                percent(largest.first),
                " ".join(f"‘{token}’" for token in largest.tokens),
            )
        )
    heads = ("channel", "layers", "largest", "times the median", "first tokens", "tokens")
    return FactsTable("massive activations", heads, rows)


def _super_weights(found: Inspection) -> FactsTable:
    """Single weights that make massive outputs."""
    rows = [
        (one.name, str(one.row), str(one.column), significant(one.value), f"{one.output:,.0f}", percent(one.share))
        for one in found.super_weights
    ]
    return FactsTable("super weights", ("linear", "row", "column", "weight", "output", "share of it"), rows)


def _tensors(found: Inspection) -> FactsTable:
    """Every weight, and the input of the linear."""
    inputs = {name: facts for facts in found.inputs for name in facts.linears}
    rows = []
    for weight in found.weights:
        facts = inputs.get(weight.name)
        read = (facts.all.kurtosis, facts.all.peak, facts.ordinary.peak, facts.effective_rank) if facts else ()
        rows.append(
            (
                weight.name,
                f"{weight.rows:,} × {weight.columns:,}",
                *map(significant, (weight.rms, weight.kurtosis, weight.peak, weight.worst_column)),
                "" if weight.lattice is None else grid_words(weight.lattice),
                *(map(significant, read) if read else ("",) * 4),
            )
        )
    heads = (
        "weight", "shape", "root mean square", "kurtosis", "peak", "largest column", "on a grid", "kurtosis of input",
        "peak of input", "ordinary tokens", "effective rank",
    )  # fmt: skip
    return FactsTable("every weight, and the input of its linear", heads, rows)


def _by_role(weights: Sequence[WeightFacts]) -> dict[str, list[WeightFacts]]:
    found: dict[str, list[WeightFacts]] = {}
    for weight in weights:
        found.setdefault(weight.role, []).append(weight)
    return found


def _median_and_worst(members: Sequence[T], read: Callable[[T], float]) -> str:
    """The median of a figure, and the largest in brackets."""
    figures = [read(one) for one in members]
    return f"{significant(statistics.median(figures))} ({significant(max(figures))})"


def _mean(members: Sequence[T], read: Callable[[T], float]) -> float:
    return statistics.fmean(map(read, members))


def _worst(members: Sequence[T], read: Callable[[T], float]) -> str:
    return significant(max(map(read, members))) if members else ABSENT


TABLES: Mapping[str, Callable[[Inspection], FactsTable]] = MappingProxyType(
    {
        "sizes": _sizes,
        "blocks": _blocks,
        "weights": _weights,
        "grids": _grids,
        "inputs": _inputs,
        "layers": _layers,
        "massive": _massive,
        "super": _super_weights,
        "tensors": _tensors,
    }
)
"""Key of each table → what makes it."""
