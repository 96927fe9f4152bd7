"""Means over the windows of a text: standard errors, intervals and tests that allow for correlated neighbours.

Windows of one article share its subject, so the losses of neighbouring windows correlate, and the standard error of
independent draws is too small, however many windows there are. Paper: Lazarus, Lewis, Stock and Watson, "HAR Inference:
Recommendations for Practice", Journal of Business and Economic Statistics 36 (2018). The long-run variance of a series
`y` is the mean of its first B squared cosine coefficients,

    Λ_j = √(2/T) · Σ_t y_t · cos(π j (t − ½) / T),    ω² = mean of Λ_1² ... Λ_B²,    error of the mean = √(ω² / T),

and the mean divided by its error follows Student's t. The slowest cosines capture the correlation of neighbours; with
B = T − 1 this *is* the error of independent draws.

Number of cosines: the paper's rule is for series longer than most texts and for stronger correlations. Here B follows
from an assumed correlation. An article continues beyond a window with constant probability, so windows k apart
correlate by `NEIGHBOURS` · `PERSISTENCE`^(k − 1). Then a cosine of frequency w = πj/T has the variance

    r(w) = s(w) / s(0),    s(w) = 1 + 2 · NEIGHBOURS · (cos w − φ) / (1 − 2φ cos w + φ²),    φ = PERSISTENCE,

relative to the slowest, so ω² is divided by the mean of r, and has ν = (Σr)² / Σr² degrees of freedom (Satterthwaite).
B is chosen for the narrowest interval. Windows spread over a text at distance g correlate by NEIGHBOURS · φ^(gk − 1),
and from some g on B is T − 1.

*Deviations*: this choice of B, the division and Satterthwaite's ν are ours; the paper has B = 0.4 T^⅔ and ν = B. The
correlation is assumed, because a few windows cannot show it; if windows are less correlated, intervals are a little too
wide.
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
"""Assumed correlation of adjacent windows: the highest that an audit measured for windows of 2048 tokens (loss 0.45,
divergences 0.42, paired differences 0.25 to 0.33). It is not estimated on the text at hand.
"""

PERSISTENCE = 2 / 3
"""Factor by which the correlation falls per window: articles of 2.5 windows, about 5000 tokens."""


@dataclass(frozen=True)
class SeriesMean:
    """A mean over windows and its uncertainty.

    Attributes:
        mean: Weighted mean of the values.
        stderr: Its standard error; None for a single window.
        freedom: Degrees of freedom of the error, need not be whole; None if there is no error.
        windows: Number of windows.
    """

    mean: float
    stderr: float | None
    freedom: float | None
    windows: int

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Confidence interval of the mean over all such text; None if there is no error."""
        if self.stderr is None or self.freedom is None:
            return None
        return student(self.mean, self.stderr, self.freedom + 1, confidence)

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided p of a mean of `null`; None if there is no error."""
        if self.stderr is None or self.freedom is None:
            return None
        return student_p(self.mean - null, self.stderr, self.freedom)


def series_mean(
    values: Sequence[float], weights: Sequence[float] | None = None, positions: Sequence[int] | None = None
) -> SeriesMean:
    """The mean of values per window; for a paired comparison, `values` are the differences.

    Args:
        values: One per window.
        weights: Number of tokens per window; None weighs all equally. A weight of 0 removes the window from the mean.
        positions: Index of each window in the text, in any order; None means consecutive windows.

    Raises:
        ValueError: There is no value, a position occurs twice, lengths differ, or weights are negative or all 0.
    """
    count = len(values)
    places = np.arange(count) if positions is None else np.asarray(positions, dtype=np.int64)
    x = np.asarray(values, dtype=float)
    w = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    if count == 0 or x.shape != w.shape or x.shape != places.shape or w.min() < 0 or w.sum() == 0:
        raise ValueError(
            f"{count} values, {len(w)} weights, {len(places)} positions; give one of each per window, and weights of 0 "
            "or more, not all 0"
        )
    order = np.argsort(places)
    x, w, places = x[order], w[order], places[order]
    gap = int(np.diff(places).min()) if count > 1 else 1
    if gap < 1:
        raise ValueError(f"positions {places.tolist()} contain a window twice; give each once")
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
    """Draw means of several series on the same windows, with the uncertainty that `series_mean` states.

    A wild bootstrap: the mean shifts by the cosine coefficients, each times a normal number that all series share, and
    is scaled by a chi-squared draw, so that it follows Student's t.

    Args:
        series: `(series, windows)`, two or more windows.
        positions: Index of each window in the text.
        noise: Random generator.
        count: Number of draws.

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
    """(number of cosines, their mean variance relative to the slowest, degrees of freedom)."""
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
    """Cosine basis, `(waves, count)`: orthonormal rows, each orthogonal to a constant."""
    angles = np.outer(np.arange(1, waves + 1), np.arange(count) + 0.5) * (np.pi / count)
    return np.asarray(math.sqrt(2 / count) * np.cos(angles))
