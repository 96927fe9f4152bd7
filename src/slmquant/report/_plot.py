"""Plots of loss against size, as SVG with the colours and font of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from slmquant.analysis.pareto import pareto_of
from slmquant.report._columns import BYTES_PER_MB, significant
from slmquant.report._sections import Cell, Section
from slmquant.report._svg import (
    DASHES,
    INK,
    LABEL_POINTS,
    LINE,
    MUTED,
    NUM_SERIES,
    PAPER,
    SERIES,
    Plot,
    drawn,
    style_,
)

LOG_FROM_RATIO = 3.0
"""The vertical axis is logarithmic if the largest value is at least this many times the smallest."""

DOT_PIXELS, TOGETHER_PIXELS = 7.0, 22.0
"""Half the width of a point with margin; distance within which points of one scheme share a label."""

LABEL_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (6, 7, "left", "bottom"),
    (6, -7, "left", "top"),
)
"""Label positions, best first: (x offset, y offset in points, horizontal and vertical alignment)."""

MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class _Dot:
    cell: Cell
    size: float
    loss: float


class Series(NamedTuple):
    """How a method is drawn.

    Attributes:
        colour: Index of its colour.
        marker: Index of its marker.
    """

    colour: int
    marker: int


def method_series(section: Section) -> dict[str, Series]:
    """Colour and marker of each method, the same in every plot of a section.

    Colours repeat after six methods with other markers, so 36 methods look different.
    """
    names = sorted({cell.record.spec.method for cell in section.quantized})
    return {
        name: Series(index % NUM_SERIES, (index + index // NUM_SERIES) % NUM_SERIES) for index, name in enumerate(names)
    }


def plot(section: Section, loss: str, title: str, task: str | None) -> Plot | None:
    """Draw `loss` (`perplexity` or `kl_mean`) on `task` against stored megabytes.

    Returns None if fewer than two quantized cells have both.
    """
    dots = [dot for cell in section.quantized if (dot := _dot(cell, loss, task))]
    if len(dots) < 2:
        return None
    reference = _dot(section.reference, loss, task) if section.reference else None

    def draw(figure: Figure) -> dict[str, str]:
        axes = figure.add_subplot()
        _draw_axes(axes, [dot.loss for dot in dots] + ([reference.loss] if reference else []))
        _draw_front(axes, section, loss, task)
        _draw_reference(axes, section, reference)
        series = method_series(section)
        for dot in dots:
            look = series[dot.cell.record.spec.method]
            _draw_dot(axes, dot, MARKERS[look.marker], SERIES[look.colour])
        axes.margins(x=0.1, y=0.12)
        figure.draw_without_rendering()
        _draw_labels(axes, dots, reference)
        return {_gid(dot.cell): _tip(dot, title) for dot in [*dots, *([reference] if reference else [])]}

    svg = drawn(f"{section.cells[0].record.cell_id} {loss} {task}", draw)
    return Plot(title, svg, _description(title, dots, reference))


def _dot(cell: Cell, loss: str, task: str | None) -> _Dot | None:
    size, metric = cell.record.metric("stored_bytes"), cell.record.metric(loss, task)
    return _Dot(cell, size.value / BYTES_PER_MB, metric.value) if size and metric else None


def _draw_axes(axes: Axes, losses: Sequence[float]) -> None:
    smallest = min(losses)
    if smallest > 0 and max(losses) / smallest >= LOG_FROM_RATIO:
        axes.set_yscale("log")
        within_a_decade = max(losses) / smallest < 10
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if within_a_decade else (1, 2, 5)))
        axes.yaxis.set_minor_locator(LogLocator(subs=()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("stored size, MB", color=MUTED)
    style_(axes)


def _draw_front(axes: Axes, section: Section, loss: str, task: str | None) -> None:
    members = pareto_of([cell.record for cell in section.cells], loss, task).members
    if len(members) > 1:
        sizes, losses = [m.size / BYTES_PER_MB for m in members], [m.loss for m in members]
        axes.plot(sizes, losses, color=LINE, linewidth=1.6, drawstyle="steps-post", zorder=1)


def _draw_reference(axes: Axes, section: Section, reference: _Dot | None) -> None:
    """Draw full precision as a star and a horizontal line; without a loss, as a vertical line at its size."""
    if reference:
        axes.axhline(reference.loss, color=MUTED, linewidth=1, linestyle=DASHES, zorder=1)
        _draw_dot(axes, reference, "*", INK, size=15)
        return
    metric = section.reference.record.metric("stored_bytes") if section.reference else None
    if metric:
        size = metric.value / BYTES_PER_MB
        axes.axvline(size, color=MUTED, linewidth=1, linestyle=DASHES, zorder=1)
        axes.annotate(
            "full precision",
            (size, 0.98),
            (-5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            color=MUTED,
            fontsize=LABEL_POINTS,
        )


def _draw_dot(axes: Axes, dot: _Dot, marker: str, colour: str, size: float = 8.5) -> None:
    axes.plot(
        [dot.size],
        [dot.loss],
        marker=marker,
        markersize=size,
        color=colour,
        markeredgecolor=PAPER,
        markeredgewidth=1.2,
        linestyle="",
        gid=_gid(dot.cell),
        zorder=3,
    )


def _draw_labels(axes: Axes, dots: Sequence[_Dot], reference: _Dot | None) -> None:
    """Label points by scheme, nearby points only once; by method if all have one scheme.

    A label that would overlap something is left out; the tooltip still shows it.
    """
    one_scheme = len({dot.cell.record.spec.scheme for dot in dots}) == 1
    shown = [*dots, *([reference] if reference else [])]
    boxes = [_box_around(axes, dot) for dot in shown]
    taken, named = list(boxes), list[tuple[str, Bbox]]()
    for dot, own in zip(shown, boxes, strict=True):
        spec = dot.cell.record.spec
        name = "full precision" if dot is reference else spec.method if one_scheme else spec.scheme
        if any(name == other and _distance(own, box) < TOGETHER_PIXELS for other, box in named):
            continue
        for dx, dy, ha, va in LABEL_PLACES:
            label = axes.annotate(
                name,
                (dot.size, dot.loss),
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=LABEL_POINTS,
                color=MUTED,
                zorder=5,
            )
            box = label.get_window_extent()
            if _inside(box, axes.get_window_extent()) and not any(
                box.overlaps(other) for other in taken if other is not own
            ):
                taken.append(box)
                named.append((name, own))
                break
            label.remove()


def _box_around(axes: Axes, dot: _Dot) -> Bbox:
    x, y = axes.transData.transform((dot.size, dot.loss))
    return Bbox.from_extents(x - DOT_PIXELS, y - DOT_PIXELS, x + DOT_PIXELS, y + DOT_PIXELS)


def _distance(first: Bbox, second: Bbox) -> float:
    return math.hypot(first.x0 - second.x0, first.y0 - second.y0)


def _inside(box: Bbox, frame: Bbox) -> bool:
    across = frame.x0 <= box.x0 and box.x1 <= frame.x1
    upright = frame.y0 <= box.y0 and box.y1 <= frame.y1
    return bool(across and upright)


def _gid(cell: Cell) -> str:
    return f"dot-{cell.record.cell_id}"


def _tip(dot: _Dot, title: str) -> str:
    return f"{dot.cell.name} · {title} {significant(dot.loss)} · {dot.size:.1f} MB"


def _description(title: str, dots: Sequence[_Dot], reference: _Dot | None) -> str:
    points = [f"{dot.cell.name} {significant(dot.loss)} at {dot.size:.0f} MB" for dot in dots]
    points += [f"full precision {significant(reference.loss)} at {reference.size:.0f} MB"] if reference else []
    return f"{title} against stored size: {'; '.join(points)}."
