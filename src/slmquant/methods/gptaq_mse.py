"""GPTAQ with the Hessian of `gptq_sink` and with scales searched for the least loss.

Ours, from `gptaq`, `gptq_sink` and `gptq_mse`. Tokens are weighted by the inverse of their energy, with a share
reserved for the first tokens, both in the Hessian and in the cross moment. Scales are searched as in `gptq_mse`, for
the part of the loss that comes from rounding the weight itself.

Deviations: as `gptaq`, except for these two changes.

Cost: as `gptaq`, plus 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptaq import Gptaq
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTAQ-MSE",
    summary="GPTAQ that weights tokens by relative error, with scales searched for the least loss after GPTQ.",
    reference="ours; cf. Li et al., ICML 2025, arXiv 2504.02692",
    blocks=Gptaq(
        weighting="energy",
        sink_share=SINK_SHARE,
        scales="loss",
        embeddings=Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss"),
    ),
)
