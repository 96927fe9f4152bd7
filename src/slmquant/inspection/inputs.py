"""Figures of a tensor that linears read, accumulated batch by batch without keeping activations."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slmquant.core import hessian
from slmquant.core.moments import Reach, effective_rank, reach, times_median
from slmquant.errors import NumericalError
from slmquant.inspection.weights import OUTLIER
from slmquant.model.structure import InputGroup
from slmquant.store.inspected import InputFacts, Spread

__all__ = ["InputObserver", "spread_of"]

_WORST = 5
"""Channels that are named."""


class InputObserver:
    """Accumulates the figures of the input of one group of linears; call it as a hook before its first linear.

    Args:
        group: The linears.
        layer: Number of their block.
        channels: Channels of the input.
        device: Device of the input.
    """

    def __init__(self, group: InputGroup, layer: int, channels: int, device: torch.device) -> None:
        self.windows = torch.Size()
        """Windows and tokens of the batch that is running."""
        self._group, self._layer = group, layer
        self._ordinary, self._outliers, self._first = Reach(), Reach(), Reach()
        self._squares = torch.zeros(channels, dtype=torch.float64, device=device)
        self._H = torch.zeros(channels, channels, device=device)
        self._H_outliers = torch.zeros(channels, channels, device=device)

    def __call__(self, _linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add the input of a call."""
        x = args[0].float()
        if x.ndim == 2 and len(x) == self.windows.numel():
            x = x.unflatten(0, self.windows)
        if x.ndim == 3:
            self._first += reach(x[:, 0])
        outlier = _outlier_tokens(x)
        ordinary, massive = x[~outlier], x[outlier]
        self._ordinary += reach(ordinary)
        self._squares += ordinary.square().sum(dim=0)
        hessian.add_outer_(self._H, ordinary)
        if len(massive):
            self._outliers += reach(massive)
            hessian.add_outer_(self._H_outliers, massive)

    def facts(self) -> InputFacts | None:
        """The figures; None if no token reached the linears.

        Raises:
            NumericalError: An input was not finite.
        """
        everything, channels = self._ordinary + self._outliers, len(self._squares)
        if not everything.count:
            return None
        if not math.isfinite(everything.fourths):
            raise NumericalError(f"the inputs of {self._group.linears[0]!r} contain NaN, infinity or numbers near it")
        worst = times_median((self._squares / (self._ordinary.count / channels)).sqrt().float())
        largest = worst.topk(min(_WORST, channels))
        ordinary = hessian.finish_(self._H, 1.0)
        return InputFacts(
            linears=self._group.linears,
            layer=self._layer,
            channels=channels,
            all=spread_of(everything),
            ordinary=spread_of(self._ordinary),
            outlier_tokens=self._outliers.count / everything.count,
            outlier_energy=_share(self._outliers.squares, everything.squares),
            first_energy=_share(self._first.squares, everything.squares),
            outlier_channels=int((worst > OUTLIER).sum()),
            channel_energy=_share(float(self._squares[worst > OUTLIER].sum()), self._ordinary.squares),
            worst_channels=tuple(zip(largest.indices.tolist(), largest.values.tolist(), strict=True)),
            effective_rank=effective_rank(ordinary),
            effective_rank_all=effective_rank(ordinary + hessian.finish_(self._H_outliers, 1.0)),
        )


def spread_of(found: Reach) -> Spread:
    """The figures of a reach."""
    return Spread(rms=found.rms, largest=found.largest, kurtosis=found.kurtosis)


def _outlier_tokens(x: Float[Tensor, "*windows tokens in"]) -> Bool[Tensor, "*windows tokens"]:
    """Which tokens have a norm of more than six times the median of their window."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms > OUTLIER * norms.median(dim=-1, keepdim=True).values


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
