"""LLM.int8(): keeps weights and activations of outlier input channels in 16 bits and quantizes all others.

Dettmers, Lewis, Belkada, Zettlemoyer, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS
2022, arXiv 2208.07339. `y = W_O x_O + Ŵ x̂` (eq. 8) with `O` the channels whose activations exceed 6.0 in magnitude:
their products are computed in 16 bits, and they no longer determine the scale of the other channels of a token.

Deviations:
    * `O` is fixed by calibration: the channels whose largest magnitude over the calibration tokens exceeds the
      threshold. The authors choose them for each batch at run time. A channel that exceeds the threshold only later is
      rounded.
    * Any number of bits, not only 8.
    * A rounding that uses statistics (`llm_int8+gptq`) sees those channels as zero; for one that does not, their
      weights still count in the range of their group or row.
    * Embeddings and head have no branch.

The branch takes 16 bits for each weight of the channels that it keeps.

Cost: one forward pass over the calibration tokens, and a vector for each distinct input.
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
    """Keeps the input channels that exceeded a threshold during calibration.

    Attributes:
        threshold: Magnitude of an activation above which its channel is kept in 16 bits.
    """

    threshold: float = 6.0
    needs: frozenset[Statistic] = frozenset({"range"})

    def remaining(self, inputs: InputStatistics) -> InputStatistics:
        """The inputs with their outlier channels set to zero."""
        return inputs.divided(torch.where(inputs.absmax > self.threshold, torch.inf, 1.0))

    def correct(
        self, weight: Float[Tensor, "out in"], rounded: QuantizedTensor, statistics: InputStatistics | None
    ) -> QuantizedTensor:
        """`rounded` with the outlier columns as a side branch; unchanged if no channel exceeds the threshold."""
        if statistics is None:
            return rounded
        columns = torch.nonzero(statistics.absmax > self.threshold)[:, 0]
        if len(columns) == 0:
            return rounded
        return replace(rounded, side=OutlierColumns(columns, weight[:, columns].half()))


METHOD = Recipe(
    title="LLM.int8()",
    summary="Keeps weights and activations of outlier channels in 16 bits and rounds the rest to nearest.",
    reference="Dettmers et al., NeurIPS 2022, arXiv 2208.07339",
    rounding=Nearest(),
    correction=OutlierSplit(),
)
