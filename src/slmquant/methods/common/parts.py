"""The parts of a method: transforms, roundings, block solvers, corrections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

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
