"""Plots of an inspection: what changes from layer to layer, and what each role takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from slmquant.report._columns import BYTES_PER_MB, significant
from slmquant.report._inspected_tables import readers_of
from slmquant.report._svg import DASHES, INK, LABEL_POINTS, LINE, MUTED, NUM_SERIES, SERIES, Plot, drawn, style_
from slmquant.store.anatomy import RoleSize
from slmquant.store.inspected import Inspection

__all__ = ["plots_of"]

_LOG_FROM_RATIO = 20.0


@dataclass(frozen=True)
class _Line:
    """Values by layer.

    Attributes:
        label: What they are; lines with the same label are named once.
        points: (layer, value).
        colour: A colour of the page.
        dashed: Whether the line is dashed.
        dots: Whether the values are dots instead of a line.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    dots: bool = False


def plots_of(found: Inspection) -> list[Plot]:
    """Every plot for which there are figures."""
    made = [_sizes(found), _stream(found), _attention(found), _peaks(found), _ranks(found), _kurtosis(found)]
    return [plot for plot in made if plot is not None]


def _stream(found: Inspection) -> Plot | None:
    largest = [(one.layer, one.top[0]) for one in found.stream]
    root = [(one.layer, one.all.rms) for one in found.stream]
    median = [(one.layer, one.median) for one in found.stream]
    lines = [
        _Line("largest", largest, SERIES[1]),
        _Line("root mean square", root, SERIES[0]),
        _Line("median", median, SERIES[2]),
    ]
    return _by_layer("magnitudes of the residual stream", "magnitude", lines)


def _attention(found: Inspection) -> Plot | None:
    heads = [(one.layer, share) for one in found.attention for share in one.first_share]
    mean = [(one.layer, one.mean) for one in found.attention]
    even = [(one.layer, one.even_share) for one in found.attention]
    lines = [
        _Line("a head", heads, MUTED, dots=True),
        _Line("mean of the heads", mean, SERIES[0]),
        _Line("if attention were even", even, SERIES[1], dashed=True),
    ]
    return _by_layer("attention on the first token", "share of attention", lines)


def _peaks(found: Inspection) -> Plot | None:
    lines = []
    for number, (readers, members) in enumerate(readers_of(found).items()):
        colour = SERIES[number % NUM_SERIES]
        lines.append(_Line(f"read by {readers}", [(one.layer, one.all.peak) for one in members], colour))
        ordinary = [(one.layer, one.ordinary.peak) for one in members]
        lines.append(_Line("dashed: without outlier tokens", ordinary, colour, dashed=True))
    return _by_layer("peaks of the inputs of linears", "largest over root mean square", lines)


def _ranks(found: Inspection) -> Plot | None:
    lines = [
        _Line(
            f"read by {readers}",
            [(one.layer, one.effective_rank / one.channels) for one in members],
            SERIES[number % NUM_SERIES],
        )
        for number, (readers, members) in enumerate(readers_of(found).items())
    ]
    return _by_layer("effective rank of the inputs of linears", "share of the channels", lines)


def _kurtosis(found: Inspection) -> Plot | None:
    roles = dict.fromkeys(one.role for one in found.weights if one.layer is not None)
    lines = [
        _Line(
            role,
            [(one.layer, one.kurtosis) for one in found.weights if one.role == role and one.layer is not None],
            SERIES[number % NUM_SERIES],
            dashed=number >= NUM_SERIES,
        )
        for number, role in enumerate(roles)
    ]
    return _by_layer("kurtosis of weights (3 if they were normal)", "kurtosis", lines)


def _sizes(found: Inspection) -> Plot:
    """Bars of megabytes, divided by role, one for each scheme."""
    names = [size.scheme for size in found.anatomy.schemes]
    sizes = [size for size in found.anatomy.roles if size.parameters]
    title = "megabytes by role"

    def draw(figure: Figure) -> Mapping[str, str]:
        axes = figure.add_subplot()
        _stack(axes, names, sizes)
        axes.set_ylabel("MB", color=MUTED)
        _finish(axes)
        return {}

    parts = "; ".join(
        f"{size.role} " + ", ".join(f"{size.stored_bytes[name] / BYTES_PER_MB:.1f} in {name}" for name in names)
        for size in sizes
    )
    return Plot(title, drawn(title, draw), f"{title}: {parts}.")


def _stack(axes: Axes, names: Sequence[str], sizes: Sequence[RoleSize]) -> None:
    below = [0.0] * len(names)
    for number, size in enumerate(sizes):
        heights = [size.stored_bytes[name] / BYTES_PER_MB for name in names]
        axes.bar(
            names,
            heights,
            bottom=below,
            width=0.6,
            color=SERIES[number % NUM_SERIES],
            alpha=1.0 if number < NUM_SERIES else 0.5,
            label=size.role,
        )
        below = [start + height for start, height in zip(below, heights, strict=True)]


def _by_layer(title: str, quantity: str, lines: Sequence[_Line]) -> Plot | None:
    """A plot over layers; None without figures. The vertical axis is logarithmic if they span a wide range."""
    shown = [line for line in lines if line.points]
    if not shown:
        return None
    values = [value for line in shown for _, value in line.points]

    def draw(figure: Figure) -> Mapping[str, str]:
        axes = figure.add_subplot()
        if min(values) > 0 and max(values) / min(values) > _LOG_FROM_RATIO:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        named = set[str]()
        for line in shown:
            _draw(axes, line, line.label not in named)
            named.add(line.label)
        axes.set_xlim(-0.5, max(layer for line in shown for layer, _ in line.points) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.set_xlabel("layer", color=MUTED)
        axes.set_ylabel(quantity, color=MUTED)
        _finish(axes)
        return {}

    ends = "; ".join(
        f"{line.label} from {significant(min(figures))} to {significant(max(figures))}"
        for line in shown
        if (figures := [value for _, value in line.points])
    )
    return Plot(title, drawn(title, draw), f"{title}, layer by layer: {ends}.")


def _draw(axes: Axes, line: _Line, named: bool) -> None:
    layers, values = zip(*line.points, strict=True)
    dots = {"linestyle": "", "marker": "o", "markersize": 3.5, "alpha": 0.45}
    style = dots if line.dots else {"linewidth": 1.6, "linestyle": DASHES if line.dashed else "-"}
    axes.plot(layers, values, color=line.colour, label=line.label if named else None, **style)


def _finish(axes: Axes) -> None:
    style_(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=LABEL_POINTS, edgecolor=LINE, loc="best")
