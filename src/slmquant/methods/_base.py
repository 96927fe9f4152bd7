"""What a method is: transforms that leave the function alone, then a rounding.

A named method is a `Recipe`, assembled in one file of this package. `a+b` names the recipe that applies the
transforms of both and rounds as the last one does (`smoothquant+gptq`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.errors import UnknownNameError
from slmquant.model.relations import Relations
from slmquant.schemes.scheme import ActivationSpec, PerGroup, PerTensor, Scheme, WeightSpec


class Transform(Protocol):
    """Rewrites a model in place without changing its function in full precision."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that it reads."""
        ...

    def refusal(self, relations: Relations) -> str | None:
        """Why it cannot be applied to such a model; None where it can."""
        ...

    def apply_(self, model: PreTrainedModel, relations: Relations, statistics: Statistics) -> Statistics:
        """Rewrite `model`; return the statistics as they are afterwards."""
        ...


class Rounding(Protocol):
    """Weight, statistics and grid to codes."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that it reads."""
        ...

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of a weight. `statistics` is None for an embedding, and where `needs` is empty.

        Rows are independent, except for scales that a whole tensor shares: the driver stacks the rows of linears
        that read the same input and rounds them in one call.
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """A method: what it does to the model, then how it rounds.

    Attributes:
        title: Its name in the literature.
        summary: What it does, in a sentence.
        reference: Paper, venue, identifier.
        transforms: Applied in order.
        rounding: How weights become codes; None for the full-precision reference, which rounds nothing.
    """

    title: str
    summary: str
    reference: str
    transforms: tuple[Transform, ...] = ()
    rounding: Rounding | None = None

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that the method itself reads, whatever the scheme."""
        parts: Sequence[Transform | Rounding] = [
            *self.transforms,
            *([self.rounding] if self.rounding else []),
        ]
        return frozenset().union(*(part.needs for part in parts))

    def needs_for(self, scheme: Scheme) -> frozenset[Statistic]:
        """Statistics that the method and the scheme need together: static activation scales are calibrated."""
        static = scheme.activations is not None and scheme.activations.static
        return self.needs | (frozenset({"range"}) if static else frozenset())

    def refusal(self, scheme: Scheme, relations: Relations | None = None) -> str | None:
        """Why this method cannot quantize to `scheme` (a model of such `relations`); None where it can."""
        if (reason := _unsupported(scheme)) is not None:
            return reason
        if self.rounding is None:
            return None if scheme.is_full_precision else f"full precision cannot be {scheme}; choose a method"
        if scheme.is_full_precision:
            return f"{self.title} has nothing to do at {scheme}; use method 'none' for the full-precision reference"
        if self.needs and scheme.weights is None and not self.transforms:
            return f"{self.title} rounds the weights of linears, which {scheme} leaves in 16 bits; use rtn"
        for transform in self.transforms:
            if relations is not None and (reason := transform.refusal(relations)) is not None:
                return reason
        return None


def _unsupported(scheme: Scheme) -> str | None:
    if scheme.special is not None:
        return f"{scheme} is read but no method rounds to it yet; integer schemes such as W4A16g64 work"
    if scheme.kv_bits is not None:
        return f"{scheme}: the key-value cache cannot be quantized yet; drop the KV part"
    return None


def combine(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe `a+b+...`: all transforms in order, the rounding of the last.

    Raises:
        UnknownNameError: A recipe before the last has no transform, so it would contribute nothing.
    """
    if len(recipes) == 1:
        return recipes[0]
    for part, recipe in zip(name.split("+"), recipes[:-1], strict=False):
        if not recipe.transforms:
            raise UnknownNameError("transform", part, [f"{r.title.lower()}" for r in recipes if r.transforms])
    return Recipe(
        title=" + ".join(recipe.title for recipe in recipes),
        summary="; then ".join(recipe.summary for recipe in recipes),
        reference="; ".join(recipe.reference for recipe in recipes if recipe.reference),
        transforms=tuple(transform for recipe in recipes for transform in recipe.transforms),
        rounding=recipes[-1].rounding,
    )


def grid_of(spec: WeightSpec) -> Grid:
    """The integers that a part of a scheme asks for."""
    bits, symmetric, granularity = spec.format.bits, spec.format.symmetric, spec.granularity
    if isinstance(granularity, PerGroup):
        return Grid(bits, symmetric, granularity.size, spec.scale_bits)
    return Grid(bits, symmetric, scale_bits=spec.scale_bits, per_tensor=isinstance(granularity, PerTensor))


def static_scale(spec: ActivationSpec, statistics: InputStatistics) -> float:
    """Scale of a whole activation tensor, `max|x| / (2^(b−1) − 1)` over the calibration tokens."""
    largest = float(statistics.absmax.max())
    return largest / (2 ** (spec.bits - 1) - 1) if largest > 0 else 1.0
