"""LLM.int8(): input channels with outliers stay in 16 bits, weights and activations, all others are quantized.

Dettmers, Lewis, Belkada, Zettlemoyer, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS
2022, arXiv 2208.07339. `y = W_O x_O + Ŵ x̂` (eq. 8) with `O` the channels whose activations exceed 6.0 in magnitude:
their products are taken in 16 bits, and they no longer set the scale that the rest of a token shares.

Deviations:
    * `O` is fixed by calibration, the channels whose largest magnitude over the calibration tokens exceeds the
      threshold. The authors look at each batch while running. A channel that exceeds it only later is rounded.
    * Any number of bits, not only 8.
    * A rounding that looks at data (`llm_int8+gptq`) sees those channels as silent; one that does not lets their
      weights take part in the range of their group or row.
    * Embeddings and head have no branch.

The branch takes 16 bits for each weight of the channels that it keeps.

Cost: one forward pass over the calibration tokens, a vector for each distinct input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import QuantizedTensor
from slmquant.core.side import OutlierColumns
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.rtn import Nearest


@dataclass(frozen=True)
class OutlierSplit:
    """Keeps the input channels that calibration saw beyond a threshold.

    Attributes:
        threshold: Magnitude of an activation above which its channel is kept in 16 bits.
    """

    threshold: float = 6.0
    needs: frozenset[Statistic] = frozenset({"range"})

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """The inputs with their outlier channels silent."""
        return inputs.divided(torch.where(inputs.absmax > self.threshold, torch.inf, 1.0))

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with the outlier columns beside it; as it is where no channel exceeds the threshold."""
        if statistics is None:
            return rounded
        columns = torch.nonzero(statistics.absmax > self.threshold)[:, 0]
        if len(columns) == 0:
            return rounded
        return replace(rounded, side=OutlierColumns(columns, weight[:, columns].half()))


METHOD = Recipe(
    title="LLM.int8()",
    summary="Keeps input channels with outliers in 16 bits, weights and activations, and rounds the rest to nearest.",
    reference="Dettmers et al., NeurIPS 2022, arXiv 2208.07339",
    rounding=Nearest(),
    correction=OutlierSplit(),
)
