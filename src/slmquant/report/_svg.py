"""SVG with the colours and font of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "GRID",
    "INK",
    "LABEL_POINTS",
    "LINE",
    "MUTED",
    "NUM_SERIES",
    "PAPER",
    "SERIES",
    "SIZE_INCHES",
    "Plot",
    "drawn",
    "style_",
]

SIZE_INCHES = (5.2, 4.0)
NUM_SERIES = 6
DASHES = (0, (3, 3))
LABEL_POINTS = 9.5

# Placeholder colours, replaced by the CSS variables of the page.
INK, MUTED, GRID, LINE, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0a0a{index:02d}" for index in range(10, 10 + NUM_SERIES))
PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
}


@dataclass(frozen=True)
class Plot:
    """One plot: title, SVG, and a text description for screen readers."""

    title: str
    svg: str
    description: str


def drawn(name: str, draw: Callable[[Figure], Mapping[str, str]], size: tuple[float, float] = SIZE_INCHES) -> str:
    """The SVG that `draw` draws, for inlining in a page; the same for the same drawing.

    Args:
        name: A name that no other plot of the page has.
        draw: Draws into the figure, and returns the tip of each point that can be hovered, by its gid (`dot-NAME`).
        size: Width and height in inches.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.fonttype"] = "none"
        mpl.rcParams["svg.hashsalt"] = name
        mpl.rcParams["font.size"] = 10.5
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        tips = draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), tips)


def style_(axes: Axes) -> None:
    """Give axes a light grid, muted labels and a line at the bottom only."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED, pad=6)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(LINE)


def _for_page(svg: str, tips: Mapping[str, str]) -> str:
    """Prepare an SVG for inlining: page colours, no clashing ids, points that can be hovered and focused."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for gid, tip in tips.items():
        cell_id, label = gid.removeprefix("dot-"), escape(tip)
        point = f'<g class="dot" tabindex="0" role="img" aria-label="{label}" data-cell="{cell_id}">'
        svg = svg.replace(f'<g id="{gid}">', point)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-zA-Z0-9_.]+"', "<g", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg
