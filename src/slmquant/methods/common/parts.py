"""The parts of a method: transforms, roundings, block solvers, corrections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.methods.common.work import Work
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme, WeightSpec


class Transform(Protocol):
    """Rewrites a model in place without changing its function in full precision."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """The statistics it reads."""
        ...

    @property
    def recaptures(self) -> bool:
        """Whether earlier statistics are invalid for the rewritten model and must be captured again."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns from the calibration windows, within the budget."""
        ...

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Why it cannot be applied to this model and scheme; None if no reason is known beforehand."""
        ...

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Rewrite `work.model`; return the statistics of the result (those given, if it recaptures)."""
        ...


class Rounding(Protocol):
    """Turns a weight, its grid and statistics of its inputs into codes, one weight at a time."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """The statistics it reads."""
        ...

    def refusal(self, spec: WeightSpec) -> str | None:
        """Why it cannot round to this format; None if it can."""
        ...

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of a weight. `statistics` is None if `needs` is empty, and for an embedding that is not the head.

        Rows must be independent, except for parameters that span a whole tensor: the driver stacks the rows of linears
        that read the same input and rounds them in one call.
        """
        ...


RoundRows = Callable[[Float[Tensor, "rows in"], Grid], QuantizedTensor]
"""Rounds rows that read the same input to a grid."""


@runtime_checkable
class Preparing(Protocol):
    """Optional capability of a rounding: what depends on statistics alone is computed once for several weights."""

    def prepared(self, statistics: InputStatistics | None) -> RoundRows:
        """`Rounding.round` with these statistics."""
        ...


def prepared(rounding: Rounding, statistics: InputStatistics | None) -> RoundRows:
    """`rounding.round` with these statistics, for several weights or grids."""
    if isinstance(rounding, Preparing):
        return rounding.prepared(statistics)
    return partial(rounding.round, statistics=statistics)


class BlockSolver(Protocol):
    """Rounds the linears of a decoder block together, block by block.

    Each block receives the outputs of the quantized blocks before it.
    """

    @property
    def learns(self) -> bool:
        """Whether it learns within the budget; a solver in closed form does not."""
        ...

    @property
    def wants_exact(self) -> Exact:
        """Which values of the full-precision model it also reads.

        Only the blocks are in full precision: if the scheme also rounds embeddings, the first block's exact inputs come
        from the rounded embeddings.
        """
        ...

    @property
    def embeddings(self) -> Rounding:
        """The rounding of embeddings and head, which lie in no block."""
        ...

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Why it cannot quantize this model to this scheme; None if no reason is known beforehand."""
        ...

    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears by name; the driver puts them in place, with the quantizers of their inputs."""
        ...


class Correction(Protocol):
    """Adds a branch in 16 bits to a rounded weight: low rank, outlier columns."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """The statistics it reads."""
        ...

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """The inputs that remain for the codes, without the channels that the branch takes over."""
        ...

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with its side branch."""
        ...
