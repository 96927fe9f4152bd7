"""LQER: adds a low-rank product in 8 bits that corrects most of the rounding error.

Zhang, Cheng, Constantinides, Zhao, "LQER: Low-Rank Quantization Error Reconstruction for LLMs", ICML 2024, arXiv
2402.02446. `y = Ŵ x + B (A x)` with `B A` the best approximation of rank `r` to the error `E = W − Ŵ`, weighted by the
inputs: `min ‖(E − B A) S‖`. In the authors' L²QER, `S` is diagonal: the magnitude of each input channel.

Deviations:
    * `S` is the root of the Hessian `H = E[x xᵀ]`, not a diagonal: it minimises the error of the output, as QERA proves
      (Zhang et al., "QERA: an Analytical Framework for Quantization Error Reconstruction", ICLR 2025, arXiv
      2410.06040, theorem 1). It follows in closed form from the statistics that GPTQ reads.
    * `A` and `B` are int8 with one scale for each component; the authors use 8-bit blocks of 16 (MXINT8).
    * If a scheme rounds activations, `A` reads them before rounding, and `Ŵ` after.
    * Embeddings and head have no branch.

The branch of an `out × in` weight takes `8 r (out + in)` bits and `32 r` bits for scales. On small models that is much:
with `r` = 32 and `out = in = 576`, 0.9 bits for each weight. The reported size includes it.

Cost: that of GPTQ's statistics; for each linear, the eigenvectors of a matrix as large as its smaller side.
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
    """Adds the low-rank product that minimises the output error, whatever the rounding.

    Attributes:
        rank: Rank of the product.
    """

    rank: int = 32
    needs: frozenset[Statistic] = frozenset({"hessian"})

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """All inputs: the product corrects errors and takes over no channel."""
        return inputs

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with the product as a side branch; without statistics all inputs are weighted equally."""
        H = None if statistics is None else statistics.weighted("uniform")
        return replace(rounded, side=low_rank(weight - rounded.dequantize(), H, self.rank).in_eight_bits())


METHOD = Recipe(
    title="LQER",
    summary="Rounds to nearest and adds a low-rank product (rank 32, 8 bits) that corrects most of the error.",
    reference="Zhang et al., ICML 2024, arXiv 2402.02446",
    rounding=Nearest(),
    correction=LowRankCorrection(),
)
