"""What is left of a time or of memory if weights had no bytes: lines through the widths of models of several sizes.

In each size a line is fitted through its widths, weighted for errors that are proportional to the value:

    time of a token = fixed time + bytes of weights / bandwidth,    memory = fixed bytes + rate · bytes of weights.

The relative error of a point is pooled over all sizes, as one size has too few widths to show it. It holds noise as
well as what a line lacks, such as kernels that unpack some widths faster, or caches that hold small files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.intervals import CONFIDENCE, student
from slmquant.analysis.window_means import Figure

FEWEST_SIZES, FEWEST_WIDTHS = 3, 3
"""The pooled error takes that many sizes, of that many widths each."""


@dataclass(frozen=True)
class Fixed:
    """What no bit width can save in one size.

    Attributes:
        size: Name of the size.
        whole: The fitted value at most bytes, those of 16 bits.
        fixed: What would be left without any bytes of weights.
        share: The same as a share of `whole`; below 0 if bits gain more than their bytes.
        per_byte: What a byte of weights adds.
    """

    size: str
    whole: float
    fixed: Figure
    share: Figure
    per_byte: Figure


@dataclass(frozen=True)
class FixedParts:
    """The lines of all sizes.

    Attributes:
        sizes: What is left in each.
        error: Relative standard error of a point.
        freedom: Its degrees of freedom.
    """

    sizes: tuple[Fixed, ...]
    error: float
    freedom: int


def fixed_parts(points: Mapping[str, Sequence[tuple[float, float]]]) -> FixedParts:
    """Fit a line in every size; intervals hold for all sizes together with 95 % (Bonferroni).

    Args:
        points: Size → (bytes of weights, value) of its widths, most bytes first; at least `FEWEST_WIDTHS`.
    """
    lines = {size: _line(*np.array(several).T) for size, several in points.items()}
    freedom = sum(len(several) - 2 for several in points.values())
    error = math.sqrt(sum(line.squares for line in lines.values()) / freedom)
    confidence = 1 - (1 - CONFIDENCE) / len(lines)

    def figure(value: float, gradient: Sequence[float], line: _Line) -> Figure:
        slope = np.asarray(gradient)
        stderr = error * math.sqrt(max(0.0, float(slope @ line.covariance @ slope)))
        return Figure(value, student(value, stderr, freedom + 1, confidence))

    parts = []
    for size, line in lines.items():
        fixed, moving, full = line.fixed, line.moving, points[size][0][0]
        whole = fixed + moving
        share = figure(fixed / whole, (moving / whole**2, -fixed / whole**2), line)
        per_byte = figure(moving / full, (0.0, 1 / full), line)
        parts.append(Fixed(size, whole, figure(fixed, (1.0, 0.0), line), share, per_byte))
    return FixedParts(tuple(parts), error, freedom)


@dataclass(frozen=True)
class _Line:
    """A line through the widths of a size, over bytes relative to those of 16 bits.

    Attributes:
        fixed: Its value at 0 bytes.
        moving: What it rises up to the bytes of 16 bits.
        covariance: Of both, for a relative error of 1.
        squares: Sum of the squared relative residuals.
    """

    fixed: float
    moving: float
    covariance: NDArray[np.float64]
    squares: float


def _line(sizes: NDArray[np.float64], values: NDArray[np.float64]) -> _Line:
    design = np.stack([np.ones_like(sizes), sizes / sizes[0]], axis=1) / values[:, None]
    solution, *_ = np.linalg.lstsq(design, np.ones(len(values)), rcond=None)
    residuals = 1 - design @ solution
    covariance = np.asarray(np.linalg.inv(design.T @ design), np.float64)
    return _Line(float(solution[0]), float(solution[1]), covariance, float((residuals**2).sum()))
