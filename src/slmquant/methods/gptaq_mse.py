"""GPTAQ under the Hessian of `gptq_sink`, with scales that are searched for the loss it leaves.

Ours, from `gptaq`, `gptq_sink` and `gptq_mse`. Tokens count by the inverse of their energy, with a share of their own
for the first ones, in the Hessian and in the cross moment alike; scales are found as `gptq_mse` finds them, for the
part of the loss that the rounding of a weight itself leaves.

Deviations: as `gptaq`, but for these two.

Cost: as `gptaq`, and 21 passes over each weight.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptaq import Gptaq
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

METHOD = Recipe(
    title="GPTAQ-MSE",
    summary="GPTAQ whose tokens count by relative error, under scales searched for the least loss that GPTQ leaves.",
    reference="ours; cf. Li et al., ICML 2025, arXiv 2504.02692",
    blocks=Gptaq(
        weighting="energy",
        sink_share=SINK_SHARE,
        scales="loss",
        embeddings=Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss"),
    ),
)
