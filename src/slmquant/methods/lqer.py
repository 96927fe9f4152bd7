"""LQER: adds a product of two thin matrices in 8 bits that makes up for most of what rounding lost.

Zhang, Cheng, Constantinides, Zhao, "LQER: Low-Rank Quantization Error Reconstruction for LLMs", ICML 2024, arXiv
2402.02446. `y = Ŵ x + B (A x)` with `B A` the best approximation of rank `r` to the error `E = W − Ŵ`, weighed by the
inputs: `min ‖(E − B A) S‖`. The authors' L²QER has `S` diagonal, the magnitude of each input channel.

Deviations:
    * `S` is the root of the Hessian `H = E[x xᵀ]`, not a diagonal: it minimises the error of the output, as QERA proves
      (Zhang et al., "QERA: an Analytical Framework for Quantization Error Reconstruction", ICLR 2025, arXiv
      2410.06040, theorem 1). The same statistics that GPTQ reads give it in closed form.
    * `A` and `B` are int8 with one scale for each component, where the authors have 8-bit blocks of 16 (MXINT8).
    * `A` reads the activations as they are, before they are rounded for `Ŵ` where a scheme rounds them.
    * Embeddings and head have no branch.

The branch of an `out × in` weight takes `8 r (out + in)` bits and `32 r` of scales. On small models that is much: with
`r` = 32 and `out = in = 576`, 0.9 bits for each weight. It is in the size that is reported.

Cost: as GPTQ's statistics; for each linear the eigenvectors of a matrix of its smaller side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import QuantizedTensor
from slmquant.core.lowrank import low_rank
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.rtn import Nearest


@dataclass(frozen=True)
class LowRankCorrection:
    """The low-rank product that leaves least error in the output, whatever did the rounding.

    Attributes:
        rank: Components of the product.
    """

    rank: int = 32
    needs: frozenset[Statistic] = frozenset({"hessian"})

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """All of them: the product makes up for errors, it takes no channel."""
        return inputs

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with the product beside it; all inputs weigh alike where there are no statistics."""
        H = None if statistics is None else statistics.weighted("uniform")
        return replace(rounded, side=low_rank(weight - rounded.dequantize(), H, self.rank).in_eight_bits())


METHOD = Recipe(
    title="LQER",
    summary="Rounds to nearest and adds a product of rank 32 in 8 bits that restores most of the output.",
    reference="Zhang et al., ICML 2024, arXiv 2402.02446",
    rounding=Nearest(),
    correction=LowRankCorrection(),
)
