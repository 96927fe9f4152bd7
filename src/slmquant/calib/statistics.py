"""What calibration learns of the inputs of each group of linears, and how that changes under a transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Statistic = Literal["range", "hessian"]
"""`range` (magnitudes by channel) feeds smoothing and static activation scales, `hessian` GPTQ and its kind."""


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of one tensor that linears read, over the calibration tokens.

    Attributes:
        absmax: Largest magnitude of each channel.
        absmean: Mean magnitude of each channel.
        rms: Root mean square of each channel.
        hessian: Mean of `x xᵀ`; None where it was not asked for.
        first: The input at the first token of each window, where attention sinks form; None where the input has
            no sequence of its own (routed experts).
    """

    absmax: Float[Tensor, " in"]
    absmean: Float[Tensor, " in"]
    rms: Float[Tensor, " in"]
    hessian: Float[Tensor, "in in"] | None = None
    first: Float[Tensor, "samples in"] | None = None

    def divided(self, factors: Float[Tensor, " in"]) -> InputStatistics:
        """The statistics of the same inputs divided channel by channel: what smoothing does to them."""
        hessian = self.hessian
        if hessian is not None:
            hessian = hessian / factors[:, None] / factors[None, :]
        first = None if self.first is None else self.first / factors
        return InputStatistics(self.absmax / factors, self.absmean / factors, self.rms / factors, hessian, first)


Statistics = Mapping[str, InputStatistics]
"""Name of the first linear of each input group → statistics of its input; the head's under its weight's name."""


class Rescaled(Mapping[str, InputStatistics]):
    """Statistics after some inputs were divided channel by channel; nothing is computed before it is asked for.

    Args:
        base: The statistics before.
        factors: Group name → what its input was divided by, shape `(in,)`.
    """

    def __init__(self, base: Statistics, factors: Mapping[str, Float[Tensor, " in"]]) -> None:
        self._base, self._factors = base, factors

    def __getitem__(self, name: str) -> InputStatistics:
        factors = self._factors.get(name)
        return self._base[name] if factors is None else self._base[name].divided(factors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
