"""GPTQ with a share of the Hessian for the first token, all tokens counting alike: `gptq_sink` without its weights.

What `gptq_sink` was before tokens were weighed by their energy, kept to be compared with:

    H = (1 − s) · E[x xᵀ] + s · E[x₀ x₀ᵀ]

Where the first token is a massive activation its share is far more than `s`, and other tokens pay for it.

Deviations: as `gptq`.

Cost: as `gptq_sink`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-sink, uniform tokens",
    summary="GPTQ whose Hessian gives the first token of each window a share of its own, all tokens counting alike.",
    reference="ours; cf. Sung et al., 2025, arXiv 2503.01820",
    rounding=Gptq(sink_share=SINK_SHARE),
)
