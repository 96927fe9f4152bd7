"""K-quant search: GGUF's types with the scales and minima that err least, found group by group; looks at no data.

After ggml's quantizers (llama.cpp, `ggml-quants.c`; Kawrakow, "k-quants", llama.cpp pull request 1684, 2023), which
have no paper. Minimises `Σ v · (w − ŵ)²` in each group, with `v = |w| + sqrt(mean w²)` and the mean over the row.

Deviations:
    * One search with one grid of 21 trial scales serves every type. ggml has one for each, with other numbers of
      trials, other importances (`w²` for some), and none at all for Q4_0 to Q8_0 unless it is given data.
    * Where a row is no multiple of 256, the last super-block is shorter. ggml falls back to another type there,
      as mixtures (Q4_K_M) do here.
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
    """Scales and minima by weighted search, codes by rounding to nearest.

    Attributes:
        needs: With `range`, an error counts for the mean square of the input that it meets; with nothing, for what
            the weight itself is worth.
    """

    needs: frozenset[Statistic] = field(default_factory=frozenset)

    def refusal(self, spec: WeightSpec) -> str | None:
        """Only GGUF's types are searched as ggml searches them."""
        if isinstance(spec.format, GgufType):
            return None
        return f"the K-quant search is one for GGUF's types, not for {spec.format.name}; use Q4_K, or rtn or gptq"

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; an embedding, which reads nothing, is searched without data."""
        if self.needs and statistics is not None:
            importance = statistics.rms.square()[None].clamp(min=torch.finfo(weight.dtype).tiny)
        else:
            importance = weight.abs() + weight.square().mean(dim=1, keepdim=True).sqrt()
        return grid.quantize(weight, search(weight, importance, grid))


METHOD = Recipe(
    title="K-quant",
    summary="Searches the scales and minima of GGUF's types for the least weighted error; looks at no data.",
    reference="Kawrakow, llama.cpp pull request 1684, 2023",
    rounding=KQuant(),
)
