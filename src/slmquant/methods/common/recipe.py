"""A method as data: transforms that preserve the model's function, then a rounding, then an optional correction.

A named method is a `Recipe`, assembled in one file of the package `methods`. `a+b` names the recipe that applies the
transforms and corrections of both and rounds like the last one (`smoothquant+gptq`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.errors import RefusedError
from slmquant.methods.common.parts import BlockSolver, Correction, Rounding, Transform
from slmquant.methods.common.solver import BlockByBlock, Solver, WeightByWeight
from slmquant.methods.common.tuning import Tuning
from slmquant.model.computing import activations
from slmquant.model.computing.grids import unsupported
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import ActivationSpec, Scheme


@dataclass(frozen=True)
class Recipe:
    """A method: transforms of the model, a rounding of its weights, and an optional correction.

    Attributes:
        title: Its name in the literature.
        summary: What it does, in one sentence.
        reference: Paper, venue, identifier.
        transforms: Transforms, applied in order.
        rounding: Rounds one weight at a time.
        blocks: Rounds one decoder block at a time, instead of `rounding`. The full-precision reference has neither.
        correction: Adds a side branch to the codes.
        tuning: Tunes continuous parameters of the result.
        remarks: Notes for each of its rows, such as what a combination leaves out.
    """

    title: str
    summary: str
    reference: str
    transforms: tuple[Transform, ...] = ()
    rounding: Rounding | None = None
    blocks: BlockSolver | None = None
    correction: Correction | None = None
    tuning: Tuning | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def solver(self) -> Solver | None:
        """Solver that turns weights into codes; None for the full-precision reference."""
        if self.blocks is not None:
            return BlockByBlock(self.blocks, self.correction)
        return None if self.rounding is None else WeightByWeight(self.rounding, self.correction)

    @property
    def tries_types(self) -> Rounding | None:
        """Its rounding, if that is all that it does to a weight, so that weights can be tried in other types."""
        return self.rounding if not self.transforms and self.blocks is None and self.correction is None else None

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics that the method itself reads, independent of the scheme."""
        return self._needs_from(0)

    def needs_for(self, scheme: Scheme) -> frozenset[Statistic]:
        """Statistics of the full-precision model that the method needs for a scheme.

        They include those for static activation scales and for the solver's rounding of embeddings, but not those read
        after a transform that recaptures.
        """
        stop = self._first_recapture
        if stop is not None:
            return frozenset[Statistic]().union(*(transform.needs for transform in self.transforms[: stop + 1]))
        return self._needs_from(0) | self._scheme_needs(scheme)

    def needs_after(self, transform: Transform, scheme: Scheme) -> frozenset[Statistic]:
        """Statistics read after `transform`, which recaptures."""
        return self._needs_from(self.transforms.index(transform) + 1) | self._scheme_needs(scheme)

    def looks_at_data(self, scheme: Scheme) -> bool:
        """Whether the method needs calibration text."""
        return bool(self.needs_for(scheme)) or self.learns or self.rounds_blocks or self._first_recapture is not None

    @property
    def learns(self) -> bool:
        """Whether any part learns and so depends on the budget."""
        return (
            any(transform.learns for transform in self.transforms)
            or (self.solver is not None and self.solver.learns)
            or self.tuning is not None
        )

    @property
    def rounds_blocks(self) -> bool:
        """Whether it rounds block by block, rather than weight by weight."""
        return self.solver is not None and self.solver.by_blocks

    @property
    def rewrites_weights(self) -> bool:
        """Whether it changes all weights of the blocks, before rounding or block by block."""
        return self.rounds_blocks or self._first_recapture is not None

    @property
    def _first_recapture(self) -> int | None:
        recapturing = (index for index, transform in enumerate(self.transforms) if transform.recaptures)
        return next(recapturing, None)

    def _needs_from(self, start: int) -> frozenset[Statistic]:
        of_transforms = frozenset[Statistic]().union(*(transform.needs for transform in self.transforms[start:]))
        return of_transforms if self.solver is None else of_transforms | self.solver.needs

    def _scheme_needs(self, scheme: Scheme) -> frozenset[Statistic]:
        needs: frozenset[Statistic] = frozenset()
        if scheme.activations is not None and scheme.activations.static:
            needs |= {"range"}
        if scheme.rounds_embeddings and self.solver is not None:
            needs |= self.solver.embeddings.needs
        return needs

    def refusal(self, scheme: Scheme, relations: Relations | None = None) -> str | None:
        """Why this method cannot quantize a model with these `relations` to `scheme`; None if it can."""
        if (reason := unsupported(scheme)) is not None:
            return reason
        if self.solver is None:
            return None if scheme.is_full_precision else f"full precision cannot be {scheme}; choose a method"
        if scheme.is_full_precision:
            return f"{self.title} has nothing to do at {scheme}; use method 'none' for the full-precision reference"
        if scheme.max_bytes is not None and self.tries_types is None:
            return f"{self.title} does not round one weight at a time, as trying types needs; use slmq, gptq_mse or rtn"
        if (
            scheme.weights is None
            and scheme.max_bytes is None
            and not self.transforms
            and (self.needs or self.rounds_blocks)
        ):
            return f"{self.title} rounds the weights of linears, which {scheme} leaves in 16 bits; use rtn"
        if (reason := self.solver.refusal(self.title, scheme, relations)) is not None:
            return reason
        for transform in self.transforms:
            if (reason := transform.refusal(scheme, relations)) is not None:
                return reason
        if self.tuning is None:
            return None
        if self.correction is not None:
            return f"{self.title} would tune scales beside a branch that corrects them; leave one of them out"
        return self.tuning.refusal(scheme)


def combine(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe `a+b+...`: all transforms in order, the rounding of the last, and the correction of one of them.

    A tuning is written last and rounds nothing itself: `gptq_mse+scale_tuning` rounds like `gptq_mse`.

    If the last part replaces a rounding other than plain nearest, such as AWQ's clipping, a remark says so.

    Raises:
        RefusedError: A recipe before the last has neither transform nor correction and would contribute nothing; or
            two recipes add a branch, but a weight takes only one.
    """
    if len(recipes) == 1:
        return recipes[0]
    *parts, last = name.split("+")
    tuned = recipes[-1].tuning
    for part, recipe in zip(parts, recipes[:-1], strict=True):
        if recipe.tuning is not None:
            raise RefusedError(f"{name}: {part!r} tunes what was rounded; write it last, as {last}+{part}")
    rounds = recipes if tuned is None else recipes[:-1]
    for part, recipe in zip(parts, rounds[:-1], strict=False):
        if not recipe.transforms and recipe.correction is None:
            raise RefusedError(f"{name}: {part!r} only rounds, as the last method does; write it last or leave it out")
    corrections = [recipe.correction for recipe in recipes if recipe.correction is not None]
    if len(corrections) > 1:
        titles = " and ".join(recipe.title for recipe in recipes if recipe.correction is not None)
        raise RefusedError(f"{name}: {titles} both add a branch, but a weight takes only one; leave one of them out")
    return Recipe(
        title=" + ".join(recipe.title for recipe in recipes),
        summary="; then ".join(recipe.summary for recipe in recipes),
        reference="; ".join(recipe.reference for recipe in recipes if recipe.reference),
        transforms=tuple(transform for recipe in recipes for transform in recipe.transforms),
        rounding=rounds[-1].rounding,
        blocks=rounds[-1].blocks,
        correction=corrections[0] if corrections else None,
        tuning=tuned,
        remarks=tuple(
            f"{recipe.title} is without its own way to round, which {rounds[-1].title} replaces"
            for recipe in rounds[:-1]
            if recipe.blocks is not None or (recipe.rounding is not None and recipe.rounding.needs)
        ),
    )


def static_scale(spec: ActivationSpec, statistics: InputStatistics, clip: float = 1.0) -> float:
    """Scale of a whole activation tensor, which covers `clip` times its largest magnitude during calibration."""
    return activations.static_scale(spec, float(statistics.absmax.max()), clip)
