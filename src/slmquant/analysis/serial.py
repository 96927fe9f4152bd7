"""Means over the windows of a text, whose neighbours are alike: standard errors, intervals and tests that know it.

Windows of one article share its subject, so the losses of neighbouring windows correlate, and the error of independent
draws is too small, however many windows there are. Paper: Lazarus, Lewis, Stock and Watson, "HAR Inference:
Recommendations for Practice", Journal of Business and Economic Statistics 36 (2018). The long-run variance of a series
`y` is the mean of its first B squared cosine coefficients,

    Λ_j = √(2/T) · Σ_t y_t · cos(π j (t − ½) / T),    ω² = mean of Λ_1² ... Λ_B²,    error of the mean = √(ω² / T),

and the mean over its error follows Student's t. Slow waves feel what neighbours share; with B = T − 1 this *is* the
error of independent draws.

How many cosines: the paper's rule is worked out for series longer than most texts and correlations stronger than
theirs. Here B follows from a stated correlation. An article goes on beyond a window with a constant chance, so windows
k apart correlate by `NEIGHBOURS` · `PERSISTENCE`^(k − 1). Under that a wave of frequency w = πj/T has the variance

    r(w) = s(w) / s(0),    s(w) = 1 + 2 · NEIGHBOURS · (cos w − φ) / (1 − 2φ cos w + φ²),    φ = PERSISTENCE,

relative to the slowest, so ω² is divided by the mean of r, and has ν = (Σr)² / Σr² degrees of freedom (Satterthwaite).
B is the number with which the interval is narrowest. Windows that are spread over a text, g apart, correlate by
NEIGHBOURS · φ^(gk − 1), and from some g on B is T − 1.

*Deviations*: this choice of B, the division and Satterthwaite's ν are ours; the paper has B = 0.4 T^⅔ and ν = B. Where
windows are less alike than stated, intervals are a little too wide: a few windows cannot say how alike they are, so it
has to be assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.intervals import CONFIDENCE, Interval, student, student_quantile
from slmquant.analysis.paired import student_p

__all__ = ["NEIGHBOURS", "SeriesMean", "series_draws", "series_mean"]

NEIGHBOURS = 0.45
"""Correlation that adjacent windows of a text are taken to have: the upper end of what an audit found for windows of
2048 tokens (the loss 0.45, divergences 0.42, paired differences 0.25 to 0.33), and not estimated on the text at hand.
"""

PERSISTENCE = 2 / 3
"""By what the correlation falls with every further window: articles of two and a half windows, about 5000 tokens."""


@dataclass(frozen=True)
class SeriesMean:
    """A mean over windows, and how far it may be off.

    Attributes:
        mean: Weighted mean of the values.
        stderr: Its standard error; None for a single window, which says nothing of others.
        freedom: Degrees of freedom of the error, not always a whole number; None where there is none.
        windows: How many there were.
    """

    mean: float
    stderr: float | None
    freedom: float | None
    windows: int

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Where the mean of all such text lies; None where there is no error."""
        if self.stderr is None or self.freedom is None:
            return None
        return student(self.mean, self.stderr, self.freedom + 1, confidence)

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided p of a mean of `null`; None where there is no error."""
        if self.stderr is None or self.freedom is None:
            return None
        return student_p(self.mean - null, self.stderr, self.freedom)


def series_mean(
    values: Sequence[float], weights: Sequence[float] | None = None, positions: Sequence[int] | None = None
) -> SeriesMean:
    """The mean of some windows' values. For a paired difference, `values` are the differences.

    Args:
        values: One per window.
        weights: How many tokens each stands for; equal where None. A weight of 0 leaves a window without say.
        positions: Where each window lies in the text, in windows; side by side where None. They need no order.

    Raises:
        ValueError: There is no value, a window stands twice, or lengths differ.
    """
    count = len(values)
    places = np.arange(count) if positions is None else np.asarray(positions, dtype=np.int64)
    x = np.asarray(values, dtype=float)
    w = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    if count == 0 or x.shape != w.shape or x.shape != places.shape or w.min() < 0 or w.sum() == 0:
        raise ValueError(
            f"{count} values, {len(w)} weights, {len(places)} positions; give one of each per window, weights of 0 or "
            "more and not all of them 0"
        )
    order = np.argsort(places)
    x, w, places = x[order], w[order], places[order]
    gap = int(np.diff(places).min()) if count > 1 else 1
    if gap < 1:
        raise ValueError(f"positions {places.tolist()} name a window twice; give each once")
    total = float(w.sum())
    mean = float(w @ x) / total
    if count == 1:
        return SeriesMean(mean, None, None, count)
    waves, share, freedom = _design(count, gap)
    coefficients = _cosines(count, waves) @ (w * (x - mean))
    long_run = float((coefficients**2).mean()) / share
    return SeriesMean(mean, math.sqrt(count * long_run) / total, freedom, count)


def series_draws(
    series: NDArray[np.float64], positions: Sequence[int], noise: np.random.Generator, count: int
) -> NDArray[np.float64]:
    """Means that several series on the same windows might have had, as uncertain as `series_mean` says.

    The mean moves by the cosine coefficients, each times a normal number that all series share (a wild bootstrap), over
    the error of the error that Student's t stands for.

    Args:
        series: `(series, windows)`, two or more windows.
        positions: Where each window lies in the text, in windows.
        noise: What draws.
        count: How many draws.

    Returns:
        `(series, count)`.
    """
    order = np.argsort(positions)
    x, places = series[:, order], np.asarray(positions)[order]
    windows = x.shape[1]
    waves, share, freedom = _design(windows, int(np.diff(places).min()))
    means = x.mean(axis=1, keepdims=True)
    moves = (x - means) @ _cosines(windows, waves).T @ noise.standard_normal((waves, count))
    moves *= math.sqrt(1 / (windows * share * waves)) * np.sqrt(freedom / noise.chisquare(freedom, count))
    return np.asarray(means + moves)


@lru_cache
def _design(count: int, gap: int) -> tuple[int, float, float]:
    """How many cosines, the mean variance of theirs relative to the slowest waves', and their degrees of freedom."""
    neighbours, falls = NEIGHBOURS * PERSISTENCE ** (gap - 1), PERSISTENCE**gap
    cosines = np.cos(np.pi * np.arange(count) / count)
    spectrum = 1 + 2 * neighbours * (cosines - falls) / (1 - 2 * falls * cosines + falls**2)
    relative = spectrum[1:] / spectrum[0]
    sums, squares, numbers = relative.cumsum(), (relative**2).cumsum(), np.arange(1, count)
    shares, freedoms = sums / numbers, sums**2 / squares
    widths = [student_quantile(nu + 1) / math.sqrt(share) for nu, share in zip(freedoms, shares, strict=True)]
    best = int(np.argmin(widths))
    return best + 1, float(shares[best]), float(freedoms[best])


@lru_cache(maxsize=16)
def _cosines(count: int, waves: int) -> NDArray[np.float64]:
    """`(waves, count)`; orthonormal, and each orthogonal to a constant."""
    angles = np.outer(np.arange(1, waves + 1), np.arange(count) + 0.5) * (np.pi / count)
    return np.asarray(math.sqrt(2 / count) * np.cos(angles))
