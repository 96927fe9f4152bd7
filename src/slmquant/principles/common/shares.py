"""A share of a count, as an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import bdtr, bdtrc

from slmquant.analysis.intervals import CONFIDENCE, Interval, wilson


@dataclass(frozen=True)
class Share:
    """A number of independent cases out of all.

    Attributes:
        count: The cases.
        n: All.
    """

    count: int
    n: int

    @property
    def mean(self) -> float:
        """The share."""
        return self.count / self.n

    @property
    def stderr(self) -> float:
        """Its standard error."""
        return math.sqrt(self.mean * (1 - self.mean) / self.n)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Wilson's interval."""
        return wilson(self.mean, self.n, confidence)

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of the share `null`: twice the smaller tail of the binomial distribution."""
        up_to = float(bdtr(self.count, self.n, null))
        from_here = float(bdtrc(self.count - 1, self.n, null)) if self.count else 1.0
        return min(1.0, 2 * min(up_to, from_here))
