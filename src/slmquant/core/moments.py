"""How far numbers reach: root mean square, kurtosis, largest magnitude; and how many directions vectors fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Reach", "effective_rank", "reach", "times_median"]


@dataclass(frozen=True)
class Reach:
    """Sums over some numbers, from which the figures follow; `a + b` is the reach of both together.

    Attributes:
        count: How many there are.
        squares: Sum of their squares.
        fourths: Sum of their fourth powers.
        largest: Largest magnitude.
    """

    count: int = 0
    squares: float = 0.0
    fourths: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Reach) -> Reach:
        return Reach(
            self.count + other.count,
            self.squares + other.squares,
            self.fourths + other.fourths,
            max(self.largest, other.largest),
        )

    @property
    def rms(self) -> float:
        """Root mean square; 0 without numbers."""
        return (self.squares / self.count) ** 0.5 if self.count else 0.0

    @property
    def kurtosis(self) -> float:
        """Mean fourth power over the square of the mean square, about 0: 3 for normal numbers, 0 if all are 0."""
        return self.fourths * self.count / self.squares**2 if self.squares > 0 else 0.0


def reach(x: Float[Tensor, ...]) -> Reach:
    """The reach of all numbers of a tensor; squares are summed in float64, in rows of the last dimension."""
    if not x.numel():
        return Reach()
    largest = float(x.abs().amax())
    squares = x.float().square()
    rows = squares.sum(dim=-1, dtype=torch.float64)
    fourths = squares.square_().sum(dim=-1, dtype=torch.float64)
    return Reach(x.numel(), float(rows.sum()), float(fourths.sum()), largest)


def effective_rank(H: Float[Tensor, "in in"]) -> float:
    """`(Σλ)² / Σλ²` of the eigenvalues of a symmetric matrix: how many equal ones would be spread alike.

    That is the participation ratio, `(tr H)² / ‖H‖²`: no eigenvalue is computed. It lies between 1 and the size of `H`;
    the rank of Roy and Vetterli (EUSIPCO 2007), which is `e` to the entropy of the eigenvalues' shares, is never
    smaller. 0 for a matrix of zeros.
    """
    largest = H.abs().amax()
    if not largest > 0:
        return 0.0
    scaled = H / largest
    return float(scaled.trace().double().square() / scaled.square_().sum(dtype=torch.float64))


def times_median(values: Float[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Values, none of them negative, over the median of those that are not 0; all 0 if there are none."""
    nonzero = values[values > 0]
    return values / nonzero.median() if len(nonzero) else torch.zeros_like(values)
