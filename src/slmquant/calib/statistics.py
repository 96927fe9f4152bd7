"""What calibration learns of the inputs of each group of linears, and how that changes under a transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from slmquant.core.hessian import Weighting

Statistic = Literal["range", "hessian", "hessian_energy", "hessian_importance"]
"""`range` (magnitudes by channel) feeds smoothing and static activation scales, `hessian` GPTQ and its kind; those
with more in their name are Hessians whose tokens do not count alike, see `core.hessian.Weighting`."""

HESSIANS: Mapping[Weighting, Statistic] = MappingProxyType(
    {"uniform": "hessian", "energy": "hessian_energy", "importance": "hessian_importance"}
)
"""The statistic that holds the Hessian of each weighting."""

MASSIVE_SHARE = 0.5
"""A token that holds more of the trace than all others together decides what is minimised."""


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
        hessian_energy: Mean of `x xᵀ / |x|²`; None where it was not asked for.
        hessian_importance: Mean of `x xᵀ` weighted by `|∂L/∂y|²`, see `calib.importance`; None where it was not
            asked for.
        peak_share: What part of `Σ |x|²`, the trace of `hessian`, the largest token of each window holds on average;
            None where the input has no sequence of its own, or is not what was captured.
    """

    absmax: Float[Tensor, " in"]
    absmean: Float[Tensor, " in"]
    rms: Float[Tensor, " in"]
    hessian: Float[Tensor, "in in"] | None = None
    first: Float[Tensor, "samples in"] | None = None
    hessian_energy: Float[Tensor, "in in"] | None = None
    hessian_importance: Float[Tensor, "in in"] | None = None
    peak_share: Float[Tensor, ""] | None = None

    def weighted(self, weighting: Weighting) -> Float[Tensor, "in in"]:
        """The Hessian whose tokens count for what `weighting` says.

        Raises:
            ValueError: It was not asked for.
        """
        H: Float[Tensor, "in in"] | None = getattr(self, HESSIANS[weighting])
        if H is None:
            raise ValueError(f"a Hessian of {weighting} tokens is read, and calibration was not asked for it")
        return H

    def divided(self, factors: Float[Tensor, " in"]) -> InputStatistics:
        """The statistics of the same inputs divided channel by channel: what smoothing does to them.

        What a token counts for stays what it was before.
        """
        return InputStatistics(
            absmax=self.absmax / factors,
            absmean=self.absmean / factors,
            rms=self.rms / factors,
            hessian=_divided(self.hessian, factors),
            first=None if self.first is None else self.first / factors,
            hessian_energy=_divided(self.hessian_energy, factors),
            hessian_importance=_divided(self.hessian_importance, factors),
        )


def massive_inputs(statistics: Statistics, above: float = MASSIVE_SHARE) -> dict[str, float]:
    """Inputs at which one token of each window holds more than a share of the Hessian's trace, and that share.

    Args:
        statistics: As captured.
        above: The share above which an input is named.
    """
    shares = {name: statistics[name].peak_share for name in statistics}
    return {name: float(share) for name, share in shares.items() if share is not None and float(share) > above}


def massive_note(shares: Mapping[str, float]) -> str | None:
    """What to say of inputs at which one token decides; None where there are none."""
    if not shares:
        return None
    where = ", ".join(f"{name} ({share:.1%})" for name, share in shares.items())
    return f"one token of each window holds most of the Hessian that was minimised: {where}; see gptq_sink"


def _divided(H: Float[Tensor, "in in"] | None, factors: Float[Tensor, " in"]) -> Float[Tensor, "in in"] | None:
    return None if H is None else H / factors[:, None] / factors[None, :]


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
