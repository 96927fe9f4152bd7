"""Pareto sets: cells that no other cell beats in size or loss without being worse in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmquant.store.record import Record


@dataclass(frozen=True)
class Point:
    """A cell with two costs, size and loss; smaller is better."""

    key: str
    size: float
    loss: float

    def dominates(self, other: Point) -> bool:
        """Whether it is no worse in both costs and better in one."""
        no_worse = self.size <= other.size and self.loss <= other.loss
        return no_worse and (self.size < other.size or self.loss < other.loss)


@dataclass(frozen=True)
class Front:
    """A Pareto set, and why other cells are not in it.

    Attributes:
        members: Points that no other point dominates, by size, then loss.
        dominated_by: Key of each dominated point → keys of the members that dominate it.
        excluded: Key of each cell without a point → what is missing.
    """

    members: tuple[Point, ...]
    dominated_by: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str]


def pareto(points: Sequence[Point], excluded: Mapping[str, str] | None = None) -> Front:
    """The Pareto set of `points`, in any order; equal points are all kept."""
    ordered = sorted(points, key=lambda point: (point.size, point.loss, point.key))
    members = tuple(p for p in ordered if not any(other.dominates(p) for other in ordered))
    kept = {member.key for member in members}
    dominated_by = {
        point.key: tuple(member.key for member in members if member.dominates(point))
        for point in ordered
        if point.key not in kept
    }
    return Front(members, dominated_by, dict(excluded or {}))


def pareto_of(records: Sequence[Record], loss: str, task: str | None = None) -> Front:
    """The Pareto set of cells by stored size and a loss metric.

    Args:
        records: Cells of one model under one set of conditions; points are keyed by cell id.
        loss: `perplexity` or `kl_mean`.
        task: The text it was measured on; None takes the first.
    """
    points, excluded = [], {}
    for record in records:
        size, metric = record.metric("stored_bytes"), record.metric(loss, task)
        if record.status != "ok":
            excluded[record.cell_id] = f"the cell is {record.status.replace('_', ' ')}"
        elif size is None or metric is None:
            excluded[record.cell_id] = f"no {'stored size' if size is None else loss}"
        else:
            points.append(Point(record.cell_id, size.value, metric.value))
    return pareto(points, excluded)
