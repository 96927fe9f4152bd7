"""GPTQ whose tokens count by the inverse of their energy: every token's error is relative to its input.

Ours; no paper. `H = Σ x xᵀ / |x|²`, so that no token decides alone, however large its input; see `gptq_sink`, which
adds a share for the first token.

Deviations: as `gptq`.

Cost: as `gptq`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

METHOD = Recipe(
    title="GPTQ-energy",
    summary="GPTQ whose Hessian counts every token's error relative to the energy of its input.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(weighting="energy"),
)
