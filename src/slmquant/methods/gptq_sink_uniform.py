"""GPTQ with a share of the Hessian for the first token and all tokens weighted equally: `gptq_sink` without weights.

`gptq_sink` before it weighted tokens by their energy, kept for comparison:

    H = (1 − s) · E[x xᵀ] + s · E[x₀ x₀ᵀ]

If the first token is a massive activation, its share is far more than `s`, and errors of the other tokens grow.

Deviations: as `gptq`.

Cost: as `gptq_sink`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-sink, uniform tokens",
    summary="GPTQ with equal weights for all tokens and a share of the Hessian reserved for each window's first.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(sink_share=SINK_SHARE),
)
