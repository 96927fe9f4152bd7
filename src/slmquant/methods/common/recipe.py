"""What a method is: transforms that leave the function alone, then a rounding, then perhaps a correction.

A named method is a `Recipe`, assembled in one file of this package. `a+b` names the recipe that applies the
transforms and corrections of both and rounds as the last one does (`smoothquant+gptq`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.calibration import Calibration
from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.errors import RefusedError
from slmquant.methods.common.mixed import specs_of
from slmquant.model.computing import activations
from slmquant.model.computing.grids import grid_of as grid_of
from slmquant.model.computing.grids import unsupported
from slmquant.model.discovery.relations import Relations
from slmquant.model.rewriting.online_rotations import Online
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.progress import Progress, Silent
from slmquant.schemes.scheme import ActivationSpec, Scheme, WeightSpec

Budget = Literal["fast", "paper"]
"""What learning may cost: `fast` suits two cores and a model of 135M, `paper` is the authors' setting, for a GPU."""


@dataclass(frozen=True)
class Work:
    """What every part of a method is given.

    Attributes:
        model: The model, float32; transforms and solvers change it in place.
        relations: Its relations, as discovered before any transform.
        scheme: Which numbers are asked for.
        calibration: What may be looked at.
        dtype: What linears multiply in during forward passes.
        seed: Of everything that is drawn.
        budget: What learning may cost.
        progress: Who is told how far it is.
        notes: Sentences for the row, added by whoever has something to say ("block 7: the loss was not finite").
        online: What transforms leave to be done at run time; they have attached it to the model already.
    """

    model: PreTrainedModel
    relations: Relations
    scheme: Scheme
    calibration: Calibration
    dtype: torch.dtype = torch.float32
    seed: int = 0
    budget: Budget = "fast"
    progress: Progress = field(default_factory=Silent)
    notes: list[str] = field(default_factory=list)
    online: list[Online] = field(default_factory=list)

    @cached_property
    def specs(self) -> Mapping[str, WeightSpec]:
        """What linears, embedding and head shall be stored as, by module name; without those left in 16 bits.

        To be asked for before the first linear is replaced.

        Raises:
            RefusedError: The scheme is a mixture, and no linear of the model is one that it favours.
        """
        return specs_of(self.scheme, self.relations, self.model)


class Transform(Protocol):
    """Rewrites a model in place without changing its function in full precision."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that it reads."""
        ...

    @property
    def recaptures(self) -> bool:
        """Whether the statistics from before say nothing of the rewritten model, so that they are captured anew."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns from the calibration windows, within the budget."""
        ...

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Why it cannot be applied to such a model for such numbers; None where it can, as far as can be told."""
        ...

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Rewrite `work.model`; return the statistics as they are afterwards (those given, where it recaptures)."""
        ...


class Rounding(Protocol):
    """Weight, statistics and grid to codes, one weight at a time."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that it reads."""
        ...

    def refusal(self, spec: WeightSpec) -> str | None:
        """Why it cannot round to such numbers; None where it can."""
        ...

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of a weight. `statistics` is None where `needs` is empty, and for an embedding that is no head.

        Rows are independent, except for parameters that span a whole tensor: the driver stacks the rows of linears
        that read the same input and rounds them in one call.
        """
        ...


@runtime_checkable
class BlockSolver(Protocol):
    """Rounds the linears of a decoder block together, block after block.

    Each block is met with the inputs that the quantized blocks before it give.
    """

    @property
    def learns(self) -> bool:
        """Whether it learns within the budget; a solver in closed form does not."""
        ...

    @property
    def wants_exact(self) -> Exact:
        """What it also reads of the full-precision model.

        Full precision is that of the blocks: where the scheme rounds embeddings, too, the first block's exact inputs
        come from the rounded ones.
        """
        ...

    @property
    def embeddings(self) -> Rounding:
        """How embeddings and head are rounded, which lie in no block."""
        ...

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Why it cannot quantize such a model to such numbers; None where it can, as far as can be told."""
        ...

    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears by name; the driver puts them in place, with the quantizers of their inputs."""
        ...


class Correction(Protocol):
    """Adds a branch in 16 bits to a rounded weight: low rank, outlier columns."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that it reads."""
        ...

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """What is left for the codes: the inputs without the channels that the branch takes."""
        ...

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with its side branch."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A method: what it does to the model, then how it rounds, then what it adds.

    Attributes:
        title: Its name in the literature.
        summary: What it does, in a sentence.
        reference: Paper, venue, identifier.
        transforms: Applied in order.
        rounding: How weights become codes; None for the full-precision reference, which rounds nothing.
        correction: What is added to the codes.
        remarks: What every row of it says, such as what a combination leaves out.
    """

    title: str
    summary: str
    reference: str
    transforms: tuple[Transform, ...] = ()
    rounding: Rounding | BlockSolver | None = None
    correction: Correction | None = None
    remarks: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that the method itself reads, whatever the scheme."""
        return self._needs_from(0)

    def needs_for(self, scheme: Scheme) -> frozenset[Statistic]:
        """Statistics of the full-precision model that the method and the scheme need together.

        What comes after a transform that recaptures is not among them. Static activation scales are calibrated, a
        solver rounds embeddings as its `embeddings` say.
        """
        stop = self._first_recapture
        if stop is not None:
            return frozenset[Statistic]().union(*(transform.needs for transform in self.transforms[: stop + 1]))
        return self._needs_from(0) | self._scheme_needs(scheme)

    def needs_after(self, transform: Transform, scheme: Scheme) -> frozenset[Statistic]:
        """Statistics that are read after `transform`, which recaptures."""
        return self._needs_from(self.transforms.index(transform) + 1) | self._scheme_needs(scheme)

    def looks_at_data(self, scheme: Scheme) -> bool:
        """Whether calibration text is read at all."""
        return bool(self.needs_for(scheme)) or self.learns or self.rounds_blocks or self._first_recapture is not None

    @property
    def learns(self) -> bool:
        """Whether any part learns, so that the budget matters."""
        learning = [transform.learns for transform in self.transforms]
        return any(learning) or (isinstance(self.rounding, BlockSolver) and self.rounding.learns)

    @property
    def rounds_blocks(self) -> bool:
        """Whether whole blocks are rounded in order, rather than weight by weight."""
        return isinstance(self.rounding, BlockSolver)

    @property
    def rewrites_weights(self) -> bool:
        """Whether all weights of the blocks are written anew before they are rounded, or block by block."""
        return self.rounds_blocks or self._first_recapture is not None

    @property
    def _first_recapture(self) -> int | None:
        recapturing = (index for index, transform in enumerate(self.transforms) if transform.recaptures)
        return next(recapturing, None)

    def _needs_from(self, start: int) -> frozenset[Statistic]:
        parts: list[Transform | Rounding | Correction] = list(self.transforms[start:])
        if self.rounding is not None and not isinstance(self.rounding, BlockSolver):
            parts.append(self.rounding)
        if self.correction is not None:
            parts.append(self.correction)
        return frozenset[Statistic]().union(*(part.needs for part in parts))

    def _scheme_needs(self, scheme: Scheme) -> frozenset[Statistic]:
        needs: frozenset[Statistic] = frozenset()
        if scheme.activations is not None and scheme.activations.static:
            needs |= {"range"}
        if scheme.embeddings is not None and isinstance(self.rounding, BlockSolver):
            needs |= self.rounding.embeddings.needs
        return needs

    def refusal(self, scheme: Scheme, relations: Relations | None = None) -> str | None:
        """Why this method cannot quantize to `scheme` (a model of such `relations`); None where it can."""
        if (reason := unsupported(scheme)) is not None:
            return reason
        if self.rounding is None:
            return None if scheme.is_full_precision else f"full precision cannot be {scheme}; choose a method"
        if scheme.is_full_precision:
            return f"{self.title} has nothing to do at {scheme}; use method 'none' for the full-precision reference"
        if scheme.weights is None and not self.transforms and (self.needs or self.rounds_blocks):
            return f"{self.title} rounds the weights of linears, which {scheme} leaves in 16 bits; use rtn"
        if isinstance(self.rounding, BlockSolver):
            if self.correction is not None:
                return f"{self.title} rounds whole blocks, which take no branch; round weight by weight, as gptq does"
            if (reason := self.rounding.refusal(scheme, relations)) is not None:
                return reason
        else:
            for spec in scheme.weight_specs:
                if (reason := self.rounding.refusal(spec)) is not None:
                    return reason
        for transform in self.transforms:
            if (reason := transform.refusal(scheme, relations)) is not None:
                return reason
        return None


def combine(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe `a+b+...`: all transforms in order, the correction of whichever has one, the rounding of the last.

    A rounding that is more than to nearest, such as AWQ's clipping, is named where the last part replaces it.

    Raises:
        RefusedError: A recipe before the last has neither transform nor correction: it would contribute nothing. Or
            two of them add a branch, of which a weight takes one.
    """
    if len(recipes) == 1:
        return recipes[0]
    for part, recipe in zip(name.split("+"), recipes[:-1], strict=False):
        if not recipe.transforms and recipe.correction is None:
            raise RefusedError(f"{name}: {part!r} only rounds, as the last method does; write it last or leave it out")
    corrections = [recipe.correction for recipe in recipes if recipe.correction is not None]
    if len(corrections) > 1:
        titles = " and ".join(recipe.title for recipe in recipes if recipe.correction is not None)
        raise RefusedError(f"{name}: {titles} both add a branch to a weight, which takes one; leave one of them out")
    return Recipe(
        title=" + ".join(recipe.title for recipe in recipes),
        summary="; then ".join(recipe.summary for recipe in recipes),
        reference="; ".join(recipe.reference for recipe in recipes if recipe.reference),
        transforms=tuple(transform for recipe in recipes for transform in recipe.transforms),
        rounding=recipes[-1].rounding,
        correction=corrections[0] if corrections else None,
        remarks=tuple(
            f"{recipe.title} is without its own way to round, which {recipes[-1].title} replaces"
            for recipe in recipes[:-1]
            if isinstance(recipe.rounding, BlockSolver) or (recipe.rounding is not None and recipe.rounding.needs)
        ),
    )


def static_scale(spec: ActivationSpec, statistics: InputStatistics, clip: float = 1.0) -> float:
    """Scale of a whole activation tensor: `clip` of its largest magnitude over the calibration tokens is the end."""
    return activations.static_scale(spec, float(statistics.absmax.max()), clip)
