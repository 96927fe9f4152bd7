"""K-quant search: finds the scales and minima of GGUF's types with the least error, group by group; needs no data.

After ggml's quantizers (llama.cpp, `ggml-quants.c`; Kawrakow, "k-quants", llama.cpp pull request 1684, 2023), which
have no paper. Minimises `Σ v · (w − ŵ)²` in each group, with `v = |w| + sqrt(mean w²)` and the mean over the row.

Deviations:
    * The same search, over 21 trial scales, is used for every type. ggml has one for each type, with other numbers of
      trials and other importances (`w²` for some), and no search for Q4_0 to Q8_0 without data.
    * If the length of a row is not a multiple of 256, the last super-block is shorter. ggml falls back to another type
      in this case, as mixtures (Q4_K_M) do here.
    * `d` and `dmin` of a super-block come from its largest scale and minimum; ggml searches them for some types.

Cost: 21 passes over each group, no data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.kquant import search
from slmquant.methods.common.recipe import Recipe
from slmquant.schemes.numbers import GgufType
from slmquant.schemes.scheme import WeightSpec


@dataclass(frozen=True)
class KQuant:
    """Searches scales and minima for the least weighted error, then rounds to nearest.

    Attributes:
        needs: With `range`, an error is weighted by the mean square of its input channel; if empty, by the magnitude
            of the weight itself.
    """

    needs: frozenset[Statistic] = field(default_factory=frozenset)

    def refusal(self, spec: WeightSpec) -> str | None:
        """Refuse all but GGUF's types."""
        if isinstance(spec.format, GgufType):
            return None
        return f"the K-quant search supports GGUF's types, not {spec.format.name}; use Q4_K, or rtn or gptq"

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; searched without data if there are no statistics, as for an embedding."""
        if self.needs and statistics is not None:
            importance = statistics.rms.square()[None].clamp(min=torch.finfo(weight.dtype).tiny)
        else:
            importance = weight.abs() + weight.square().mean(dim=1, keepdim=True).sqrt()
        return grid.quantize(weight, search(weight, importance, grid))


METHOD = Recipe(
    title="K-quant",
    summary="Searches the scales and minima of GGUF's types for the least weighted error; needs no data.",
    reference="Kawrakow, llama.cpp pull request 1684, 2023",
    rounding=KQuant(),
)
