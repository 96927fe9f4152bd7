"""GPTQ-MSE with all tokens weighted equally: `gptq_mse` before it weighted tokens by their energy.

Kept for comparison. The Hessian is that of `gptq_sink_uniform`, the search for scales that of `gptq_mse`.

Deviations: as `gptq_mse`.

Cost: as `gptq_mse`.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTQ-MSE, uniform tokens",
    summary="GPTQ-MSE with all tokens weighted equally, except for the share of the first token.",
    reference="ours; cf. Frantar et al., ICLR 2023, arXiv 2210.17323 and llama.cpp pull request 1684",
    rounding=Gptq(sink_share=SINK_SHARE, scales="loss"),
)
