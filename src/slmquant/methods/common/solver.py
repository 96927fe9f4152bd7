"""Solvers, which turn weights into codes: weight by weight or block by block, with one interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic, Statistics, massive_inputs, massive_note
from slmquant.core.affine import QuantizedTensor
from slmquant.methods.common.parts import BlockSolver, Correction, Rounding, prepared
from slmquant.methods.common.stacked import round_stacked
from slmquant.methods.common.work import Work
from slmquant.model.linears import weight_at
from slmquant.model.running.block_walk import walk
from slmquant.model.structure import InputGroup, Relations
from slmquant.progress import track
from slmquant.schemes import Scheme


class Solved(NamedTuple):
    """Linears that read the same input, with their new weights.

    Attributes:
        group: The linears.
        weights: Codes, or the dense weight `(out, in)` if the scheme leaves weights alone; one per linear.
    """

    group: InputGroup
    weights: Sequence[QuantizedTensor | Tensor]


class Solver(Protocol):
    """Turns the weights of all linears into codes, one group of linears after the other."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """The statistics of the full-precision model it reads."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns within the budget."""
        ...

    @property
    def by_blocks(self) -> bool:
        """Whether it reads the outputs of the rounded blocks before each block."""
        ...

    @property
    def embeddings(self) -> Rounding:
        """Rounds embeddings and head, which lie in no block."""
        ...

    def refusal(self, title: str, scheme: Scheme, relations: Relations | None) -> str | None:
        """Why it cannot quantize this model to this scheme; None if no reason is known beforehand."""
        ...

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """The part of an input that the codes receive: all but the channels that a branch takes over."""
        ...

    def solve(self, title: str, work: Work, statistics: Statistics) -> Iterator[Solved]:
        """Yield every group of linears once; the caller puts the weights in place before it asks for the next."""
        ...


@dataclass(frozen=True)
class WeightByWeight:
    """A rounding, and perhaps a correction, for one weight at a time.

    Attributes:
        rounding: Turns a weight into codes.
        correction: Adds a branch to the codes.
    """

    rounding: Rounding
    correction: Correction | None = None
    learns: bool = False
    by_blocks: bool = False

    @property
    def needs(self) -> frozenset[Statistic]:
        """The statistics that either part reads."""
        return self.rounding.needs if self.correction is None else self.rounding.needs | self.correction.needs

    @property
    def embeddings(self) -> Rounding:
        """The same rounding."""
        return self.rounding

    def refusal(self, title: str, scheme: Scheme, relations: Relations | None) -> str | None:
        """The first reason of the rounding against a format of the scheme, or None."""
        del title, relations
        reasons = (self.rounding.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """The input without the channels that the correction takes over."""
        return inputs if self.correction is None else self.correction.remaining(inputs)

    def solve(self, title: str, work: Work, statistics: Statistics) -> Iterator[Solved]:
        """Round group by group; add notes on massive inputs, and if no weight was given a branch."""
        massive: dict[str, float] = {}
        branched = False
        for group in track(work.relations.groups, f"quantize with {title}", work.progress):
            dense = {name: weight_at(work.model, name).float() for name in group.linears}
            if work.scheme.weights is None:
                yield Solved(group, list(dense.values()))
                continue
            inputs = statistics.get(group.linears[0])
            if inputs is not None and "hessian" in self.rounding.needs:
                massive |= massive_inputs({group.linears[0]: inputs})
            codes = self._round(dense, work, inputs)
            branched |= any(weight.side is not None for weight in codes)
            yield Solved(group, codes)
        if (note := massive_note(massive)) is not None:
            work.notes.append(note)
        if self.correction is not None and not branched:
            work.notes.append(f"{title}: no weight was given a branch in 16 bits")

    def _round(self, dense: Mapping[str, Tensor], work: Work, inputs: InputStatistics | None) -> list[QuantizedTensor]:
        left = None if inputs is None else self.remaining(inputs)
        rounded = round_stacked(dense, work.specs, prepared(self.rounding, left))
        if self.correction is None:
            return list(rounded.values())
        return [self.correction.correct(dense[name], codes, inputs) for name, codes in rounded.items()]


@dataclass(frozen=True)
class BlockByBlock:
    """A block solver, given each block in order with the outputs of the rounded blocks before it.

    Attributes:
        solver: Turns the linears of a block into codes.
        correction: Must be None: corrections are refused, because blocks take no branch.
    """

    solver: BlockSolver
    correction: Correction | None = None
    needs: frozenset[Statistic] = frozenset()
    by_blocks: bool = True

    @property
    def learns(self) -> bool:
        """Whether the block solver learns."""
        return self.solver.learns

    @property
    def embeddings(self) -> Rounding:
        """The block solver's own choice."""
        return self.solver.embeddings

    def refusal(self, title: str, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse corrections, and what the block solver refuses."""
        if self.correction is not None:
            return f"{title} rounds whole blocks, which take no branch; round weight by weight, as gptq does"
        return self.solver.refusal(scheme, relations)

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """All of it: blocks take no branch."""
        return inputs

    def solve(self, title: str, work: Work, statistics: Statistics) -> Iterator[Solved]:
        """Walk through the blocks; if the scheme leaves weights alone, go weight by weight instead."""
        if work.scheme.weights is None:
            yield from WeightByWeight(self.embeddings).solve(title, work, statistics)
            return
        blocks = walk(work.model, work.relations, work.calibration.windows, work.dtype, self.solver.wants_exact)
        for block in track(blocks, f"quantize with {title}", work.progress, len(work.relations.blocks)):
            solved = self.solver.solve_(block, work)
            for group in block.groups:
                yield Solved(group, [solved[name] for name in group.linears])
