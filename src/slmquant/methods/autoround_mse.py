"""AutoRound that starts from searched scales instead of the range of each group.

Ours, from `autoround` and `gptq_mse`. The starting scales and their signs are those that `gptq_mse` would find for the
outputs of the rounded blocks before; offsets and ranges are learned from there. A range may shrink, or grow up to the
largest weights. Embeddings and head are rounded by `gptq_mse`.

Deviations: as `autoround`, except for the start.

Cost: as `autoround`, plus, for each block, one pass over the calibration tokens for Hessians, and for each linear a
Cholesky factorisation and 21 passes over its weight.
"""

from __future__ import annotations

from slmquant.methods.autoround import AutoRound
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE

SEARCH = Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss")

METHOD = Recipe(
    title="AutoRound-MSE",
    summary="AutoRound that starts from the scales and signs found by GPTQ-MSE.",
    reference="ours; cf. Cheng et al., Findings of EMNLP 2024, arXiv 2309.05516",
    blocks=AutoRound(search=SEARCH, embeddings=SEARCH),
)
