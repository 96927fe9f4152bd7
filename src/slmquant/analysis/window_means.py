"""Figures of several means over the same windows of text, with intervals that know that all were measured together.

What is measured on the same windows moves together, so shares and ratios vary far less than the means they are made of.
A figure is a smooth function `f` of the means `m`. Its error is that of the mean over windows of

    f'(m) · x_w    x_w: the values of all cells at window w,

to first order (the delta method), with correlated neighbours (`analysis.serial`). Texts are independent and count
alike; degrees of freedom follow Welch and Satterthwaite. A bootstrap of blocks of windows would estimate the same error
with a dozen blocks; this one assumes the correlation that a few windows cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.difference import FEWEST_WINDOWS
from slmquant.analysis.intervals import CONFIDENCE, Interval, in_logarithm, student
from slmquant.analysis.serial import series_mean

Array = NDArray[np.float64]

_STEP = 1e-5
"""Step of the numeric derivative, relative to each mean."""


@dataclass(frozen=True)
class Figure:
    """A figure and its interval.

    Attributes:
        value: The figure.
        interval: None if there are too few windows for one.
    """

    value: float
    interval: Interval | None

    def exceeds(self, margin: float) -> bool:
        """Whether it is shown to be larger than `margin`."""
        return self.interval is not None and self.interval.low > margin

    def is_below(self, margin: float) -> bool:
        """Whether it is shown to be smaller than `margin`."""
        return self.interval is not None and self.interval.high < margin


@dataclass(frozen=True)
class WindowMeans:
    """Several series over the windows of some texts.

    Attributes:
        texts: For each text the values of every series, `(series, windows)`.
        positions: For each text the position of every window.
    """

    texts: tuple[Array, ...]
    positions: tuple[Sequence[int], ...]

    @property
    def means(self) -> Array:
        """Mean of every series over texts, `(series,)`."""
        return np.asarray(np.mean([values.mean(axis=1) for values in self.texts], axis=0))

    def figure(self, of: Callable[[Array], Array], confidence: float = CONFIDENCE) -> Figure:
        """A function of the means, with an interval symmetric around it.

        Args:
            of: Turns means, `(series, n)`, into `n` figures.
            confidence: Share of such intervals that contain the true value.
        """
        value, stderr, freedom = self._estimate(of)
        if stderr is None:
            return Figure(value, None)
        return Figure(value, student(value, stderr, freedom + 1, confidence))

    def positive(self, of: Callable[[Array], Array], confidence: float = CONFIDENCE) -> Figure:
        """A positive function of the means, with an interval symmetric in the logarithm; none if it is not positive."""
        value, stderr, freedom = self._estimate(of)
        if stderr is None or value <= 0:
            return Figure(value, None)
        return Figure(value, in_logarithm(value, stderr, freedom + 1, confidence))

    def _estimate(self, of: Callable[[Array], Array]) -> tuple[float, float | None, float]:
        """The figure, its standard error (None if there is none), and its degrees of freedom."""
        means = self.means
        steps = np.diag(np.where(means == 0, _STEP, _STEP * np.abs(means)))
        value, *moved = of(np.concatenate([means[:, None], means[:, None] + steps, means[:, None] - steps], axis=1))
        if not np.isfinite([value, *moved]).all() or any(one.shape[1] < FEWEST_WINDOWS for one in self.texts):
            return float(value), None, math.nan
        up, down = np.split(np.array(moved), 2)
        slopes = (up - down) / (2 * steps.diagonal()) / len(self.texts)
        errors = [
            series_mean((slopes @ values).tolist(), positions=places)
            for values, places in zip(self.texts, self.positions, strict=True)
        ]
        squares = [(one.stderr or 0.0) ** 2 for one in errors]
        total, freedoms = sum(squares), [one.freedom or math.nan for one in errors]
        if total == 0:
            return float(value), 0.0, freedoms[0]
        weighed = sum(square**2 / freedom for square, freedom in zip(squares, freedoms, strict=True))
        return float(value), math.sqrt(total), total**2 / weighed


def logs(means: Array) -> Array:
    """Logarithms; NaN of what is not positive."""
    return np.log(np.where(means > 0, means, np.nan))


def ratio(over: Array, under: Array) -> Array:
    """`over / under`; NaN where `under` is not positive."""
    return np.asarray(over / np.where(under > 0, under, np.nan))
