"""Statistics of the inputs of each group of linears, and how they change under a transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from slmquant.core.hessian import Weighting
from slmquant.model.structure import Relations

Statistic = Literal["range", "hessian", "hessian_energy", "hessian_importance"]
"""`range` (magnitudes by channel) is for smoothing and static activation scales, `hessian` for GPTQ and its variants;
`hessian_energy` and `hessian_importance` are Hessians with weighted tokens, see `core.hessian.Weighting`."""

HESSIANS: Mapping[Weighting, Statistic] = MappingProxyType(
    {"uniform": "hessian", "energy": "hessian_energy", "importance": "hessian_importance"}
)
"""Weighting → the statistic that holds its Hessian."""

MASSIVE_SHARE = 0.5
"""A token with more than this share of the Hessian's trace outweighs all others together."""


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of one tensor that linears read, over the calibration tokens.

    Attributes:
        absmax: Largest magnitude of each channel.
        absmean: Mean magnitude of each channel.
        rms: Root mean square of each channel.
        hessian: Mean of `x xᵀ`; None if it was not requested.
        first: The input at the first token of each window, where attention sinks form; None if the input has no
            sequence dimension (routed experts).
        hessian_energy: Mean of `x xᵀ / |x|²`; None if it was not requested.
        hessian_importance: Mean of `x xᵀ` weighted by `|∂L/∂y|²`, see `calib.importance`; None if it was not
            requested.
        peak_share: Mean share of `Σ |x|²`, the trace of `hessian`, that the largest token of each window holds; None
            if the input has no sequence dimension, or was changed since it was captured.
        looked_up: Whether rows of the weight that reads the input are also looked up: a head tied to its embedding.
    """

    absmax: Float[Tensor, " in"]
    absmean: Float[Tensor, " in"]
    rms: Float[Tensor, " in"]
    hessian: Float[Tensor, "in in"] | None = None
    first: Float[Tensor, "samples in"] | None = None
    hessian_energy: Float[Tensor, "in in"] | None = None
    hessian_importance: Float[Tensor, "in in"] | None = None
    peak_share: Float[Tensor, ""] | None = None
    looked_up: bool = False

    def weighted(self, weighting: Weighting) -> Float[Tensor, "in in"]:
        """The Hessian with tokens weighted by `weighting`.

        Raises:
            ValueError: That Hessian was not captured.
        """
        H: Float[Tensor, "in in"] | None = getattr(self, HESSIANS[weighting])
        if H is None:
            raise ValueError(f"the Hessian with {weighting} weighting was not captured; add it to the method's needs")
        return H

    def divided(self, factors: Float[Tensor, " in"]) -> InputStatistics:
        """The statistics after the inputs are divided channel by channel, as smoothing does.

        The weights of tokens stay as they were before.
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
    """Inputs with a massive token in each window → that token's mean share of the Hessian's trace.

    Args:
        statistics: Statistics as captured.
        above: Smallest share that counts as massive.
    """
    shares = {name: statistics[name].peak_share for name in statistics}
    return {name: float(share) for name, share in shares.items() if share is not None and float(share) > above}


def massive_note(shares: Mapping[str, float]) -> str | None:
    """Note about inputs whose Hessian is dominated by one token; None if there are none."""
    if not shares:
        return None
    where = ", ".join(f"{name} ({share:.1%})" for name, share in shares.items())
    return f"one token of each window holds most of the Hessian that was minimised: {where}; see gptq_sink"


def _divided(H: Float[Tensor, "in in"] | None, factors: Float[Tensor, " in"]) -> Float[Tensor, "in in"] | None:
    return None if H is None else H / factors[:, None] / factors[None, :]


Statistics = Mapping[str, InputStatistics]
"""Name of the first linear of each input group → statistics of its input; the head's under its weight's name."""


def embedding_inputs(name: str, relations: Relations, statistics: Statistics) -> InputStatistics | None:
    """Statistics for rounding an embedding or a head: those of the head's inputs.

    An embedding that is not also the head has none: its rows are looked up, and no column matters more than another.
    """
    inputs = statistics.get(name) if name == relations.head_weight else None
    return replace(inputs, looked_up=True) if inputs is not None and name == relations.embedding else inputs


class Rescaled(Mapping[str, InputStatistics]):
    """Statistics after some inputs were divided channel by channel, computed on access.

    Args:
        base: The statistics before.
        factors: Group name → divisors of its input, shape `(in,)`.
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
