"""GPTQ with tokens weighted by the inverse of their energy: each token's error is relative to its input.

Ours; no paper. `H = Σ x xᵀ / |x|²`, so that no single token dominates, however large its input. `gptq_sink` adds a
share for the first token.

Deviations: as `gptq`.

Cost: as `gptq`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq

METHOD = Recipe(
    title="GPTQ-energy",
    summary="GPTQ with each token weighted by the inverse of its input's energy, so that errors are relative.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(weighting="energy"),
)
