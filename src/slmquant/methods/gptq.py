"""GPTQ: rounds column by column and lets the columns that follow make up for each error.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323. Minimises `‖(W − Ŵ) X‖²` over the calibration inputs `X`, in the order
of the columns, with the closed-form update of Optimal Brain Surgeon (algorithm 1 of the paper).

Deviations:
    * One pass: all Hessians come from the full-precision model. The authors quantize block after block and feed
      each from the quantized ones before it. One pass lets every cell of a run share its Hessians.
    * Hessians of linears that read the same input are one Hessian, and their rows are solved together.
    * Columns go in their natural order by default; `act_order` sorts them by the diagonal of the Hessian and then
      uses static groups, as compressed-tensors does, not groups of the sorted order.
    * Embeddings and head, where a scheme asks for them, are rounded to nearest.

Cost: one forward pass over the calibration tokens; an `in × in` float32 Hessian for each distinct input, read from
disk one at a time; for each a Cholesky factorisation in float64 and `O(out · in²)` work.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.gptq import gptq
from slmquant.methods._base import Recipe


@dataclass(frozen=True)
class Gptq:
    """Column by column with error feedback.

    Attributes:
        damp: Fraction of the Hessian's mean diagonal that is added to its diagonal.
        act_order: Whether columns go by decreasing diagonal of the Hessian.
    """

    damp: float = 0.01
    act_order: bool = False
    needs: frozenset[Statistic] = frozenset({"hessian"})

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight` under the Hessian of its inputs; nearest where there are no inputs (an embedding)."""
        if statistics is None:
            return grid.quantize(weight)
        if statistics.hessian is None:
            raise ValueError("GPTQ was given statistics without a Hessian")
        return gptq(weight, statistics.hessian, grid, damp=self.damp, act_order=self.act_order)


METHOD = Recipe(
    title="GPTQ",
    summary="Rounds column by column, spreading each error over the columns that follow, under the input Hessian.",
    reference="Frantar et al., ICLR 2023, arXiv 2210.17323",
    rounding=Gptq(),
)
