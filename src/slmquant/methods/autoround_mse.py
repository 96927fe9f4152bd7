"""AutoRound that starts from searched scales, not from the range of each group.

Ours, from `autoround` and `gptq_mse`. Scales, with their signs, are those that `gptq_mse` would find for what the
rounded blocks before give; offsets and ranges are learned from there. A range may shrink from where it starts, or grow
as far as the weights reach. Embeddings and head are rounded by `gptq_mse`.

Deviations: as `autoround`, but for the start.

Cost: as `autoround`, and for each block one pass over the calibration tokens for Hessians, a Cholesky factorisation for
each linear, and 21 passes over its weight.
"""

from __future__ import annotations

from slmquant.methods.autoround import AutoRound
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

SEARCH = Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss")

METHOD = Recipe(
    title="AutoRound-MSE",
    summary="AutoRound that starts from the scales which GPTQ-MSE finds, signs included.",
    reference="ours; cf. Cheng et al., Findings of EMNLP 2024, arXiv 2309.05516",
    blocks=AutoRound(search=SEARCH, embeddings=SEARCH),
)
